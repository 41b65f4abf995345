"""Runnable examples. README.md lists them."""
