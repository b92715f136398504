"""Connections, secrets and variables: what runs are given, by organization and name (decision 0008 says why one service).

owns: schema `oauth` (tables `connection`, `secret`, `variable`, `done_command` and `checkpoint`); tokens and secrets are
    sealed there and nowhere else; variables are made of their messages
reads: CONNECTIONS and CATALOG (to find the last message of one connection, secret or variable; variables into rows)
writes: `connection.<id>.authorized .revoked`, `secret.<id>.changed .removed` (never a value), `variable.<key>.changed .removed`,
    `audit.token.given`, `audit.secret.given`, `log.oauth.<level>`
answers: `do.oauth.put_connection`, `do.oauth.remove_connection`, `ask.oauth.token`, `ask.oauth.connections`, and the same for
    secrets (`ask.oauth.secret`) and variables (`ask.oauth.variable`)
"""
