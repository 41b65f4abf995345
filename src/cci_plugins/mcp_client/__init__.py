"""MCP as a client: messages without I/O, one connection, and the JSON forms that both ends use."""
