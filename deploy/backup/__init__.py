"""A backup of one installation, of one moment, taken while it works: database, streams, registries, objects, and the keys apart.

`python -m deploy.backup` is `millrace backup`, `python -m deploy.restore` is `millrace restore` (docs/operations.md).
"""
