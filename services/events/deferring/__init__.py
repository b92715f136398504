"""Webhooks that wait for the code of adapters of workspaces, out of the way of all others."""
