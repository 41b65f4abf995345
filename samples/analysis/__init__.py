"""Data analysis with files in and out, once for each framework."""
