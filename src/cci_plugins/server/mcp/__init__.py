"""MCP over any pool, by the official SDK."""
