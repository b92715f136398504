"""The gateway's HTTP: one module for each group of paths, each with its table of routes at the end."""
