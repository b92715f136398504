"""What is wrong with an installation, and what to do: `python -m deploy.doctor`, which is `millrace doctor`.

It changes nothing, needs no running stack, and looks at one that runs from outside: health sockets, the supervisor's state, and
the broker and the database with the administrator addresses of ready.json.
"""
