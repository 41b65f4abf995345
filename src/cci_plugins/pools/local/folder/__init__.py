"""The folder of an embedded session, as the host reads and writes it."""
