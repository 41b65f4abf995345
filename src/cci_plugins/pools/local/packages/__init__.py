"""Packages for sessions of the embedded pool: their names, their download and their folder."""
