"""MCP as a client: messages without I/O, one connection, and the forms both ends share."""
