"""Routes webhooks: parses each into events and starts the workflows that match.

Owns: sources, adapters, integrations and mappings, subscriptions, deliveries (schema `events`); the registries `sources` and
`subscriptions`.
Reads: WEBHOOKS, EVENTS, RUNS, CATALOG, DEAD; the registry `workflows`.
Writes: `event.*`, `source.*`, `integration.*`, `mapping.*`, `subscription.*`, and `run.requested`.
"""
