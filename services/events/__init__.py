"""Routes webhooks: parses each into events and starts the workflows that match.

Owns: sources and their registrations with senders, adapters, integrations and mappings, subscriptions, deliveries (schema
`events`); the registries `sources` and `subscriptions`.
Reads: WEBHOOKS, EVENTS, RUNS, CATALOG, CONNECTIONS, DEAD; the registry `workflows`.
Writes: `event.*`, `source.*`, `registration.*`, `integration.*`, `mapping.*`, `subscription.*`, and `run.requested`.
"""
