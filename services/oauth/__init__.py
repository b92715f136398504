"""Connections: credentials of organizations, and live tokens for runs.

owns: schema `oauth` (tables `connection`, `done_command` and `checkpoint`); tokens are sealed there and nowhere else
reads: CONNECTIONS (to find the last message of one connection)
writes: `connection.<id>.authorized .revoked`, `audit.token.given`, `log.oauth.<level>`
answers: `do.oauth.put_connection`, `do.oauth.remove_connection`, `ask.oauth.token`, `ask.oauth.connections`
"""
