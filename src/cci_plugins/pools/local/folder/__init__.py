"""The folder of a session of the embedded pool."""
