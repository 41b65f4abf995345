"""The tools that a model may call, the same for every adapter."""
