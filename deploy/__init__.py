"""Everything that creates or starts things: streams, users, schemas, and the whole stack on one machine.

`python -m deploy.local` is the embedded stack, `python -m deploy.prepare` prepares an external NATS and Postgres.
"""
