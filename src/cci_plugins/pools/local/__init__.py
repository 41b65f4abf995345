"""The embedded pool: Jupyter kernels as sandboxed child processes of this application."""
