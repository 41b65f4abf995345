"""What a model may call, the same for every adapter."""
