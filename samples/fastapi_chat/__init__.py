"""A chat back end for many users at once."""
