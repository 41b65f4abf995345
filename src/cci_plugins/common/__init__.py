"""Modules that every layer may use: settings, limits, log, event loop, names and URLs."""
