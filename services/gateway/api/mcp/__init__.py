"""/mcp: workflows as tools of a server for the Model Context Protocol (docs/mcp.md)."""
