"""MCP over any pool, on the official SDK."""
