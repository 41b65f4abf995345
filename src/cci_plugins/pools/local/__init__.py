"""The embedded pool: Jupyter kernels as fenced child processes of this application."""
