"""Rebuilding projections from the bus: digest, drop, replay through the services' own code, digest, compare.

`python -m deploy.rebuild` is `millrace rebuild`. It runs with the services stopped, can be killed at any moment and called again,
and drops no row that the bus could not bring back unless asked to.
"""
