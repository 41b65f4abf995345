"""All source that runs inside sessions; standard library only."""
