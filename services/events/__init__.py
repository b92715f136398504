"""Routes webhooks: parses each into events and starts the workflows that match.

Owns: sources and their registrations with senders, adapters, integrations and mappings, subscriptions, repositories, deliveries
(schema `events`); the registries `sources`, `subscriptions` and `repositories`.
Reads: WEBHOOKS, EVENTS, RUNS, CATALOG, CONNECTIONS, DEAD; the registry `workflows`.
Writes: `event.*`, `source.*`, `registration.*`, `integration.*`, `mapping.*`, `subscription.*`, `repository.*`, `branch.*`,
and `run.requested`.
"""
