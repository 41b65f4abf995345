"""Small modules that every layer uses."""
