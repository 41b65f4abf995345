"""All source that runs inside sessions, by the standard library only, and the calls of it."""
