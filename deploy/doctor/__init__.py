"""Finds faults of an installation, and their remedies: `python -m deploy.doctor`, which is `millrace doctor`.

It changes nothing, needs no running stack, and looks at one that runs from outside: health sockets, the supervisor's state, and
the broker and the database with the administrator addresses of ready.json.
"""
