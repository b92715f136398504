"""The gateway: the only public HTTP port. Admits webhooks and speaks HTTP for all other services.

Owns: webhook admission, the platform key, the resources `organization`, `key` and `user`, and its schema (tables `checkpoint`,
`resource`, `key_use`, `session`, `login`, and what users sign in with). Writes: `webhook.received`, `run.requested`,
`run.cancel_requested`, `audit.*`, `organization.*`, `key.*`, `user.*`, and the contents of the buckets `bodies` and `workspace`.
Reads: the registries `sources`, `workflows`, `keys` and `users`, the stream RUNS. Everything else in its API is a question or a
command to the service that owns it.
"""
