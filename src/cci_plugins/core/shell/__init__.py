"""Shell commands and absolute paths of a session, by its own Python."""
