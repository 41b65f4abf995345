"""Shell commands and files by absolute paths, through a session's own Python."""
