"""Routing: what a webhook means and which workflows it starts.

Owns: sources, adapters, subscriptions, deliveries (schema `events`); the registries `sources` and `subscriptions`.
Reads: WEBHOOKS, EVENTS, RUNS, CATALOG, DEAD; the registry `workflows`.
Writes: `event.*`, `source.*`, `subscription.*`, and `run.requested`.
"""
