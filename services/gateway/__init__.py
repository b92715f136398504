"""The gateway: the only public HTTP port. Admits webhooks and speaks HTTP for all other services.

Owns: webhook admission and the platform key. Writes: `webhook.received`, `run.requested`, `run.cancel_requested`, `audit.*`,
and the contents of the buckets `bodies` and `workspace`. Reads: the registries `sources` and `workflows`, the stream RUNS.
Everything else in its API is a question or a command to the service that owns it.
"""
