"""Connections, secrets and variables: given to runs by organization and name (decision 0008 explains the one service).

owns: schema `oauth` (tables `vault`, `resource`, `done_command` and `checkpoint`); tokens and secrets are sealed in `vault` and
    nowhere else; variables are made of their messages into `resource`
reads: CONNECTIONS and CATALOG (to find the last message of one connection, secret or variable; variables into rows)
writes: `connection.<id>.authorized .revoked`, `secret.<id>.changed .removed` (never a value), `variable.<key>.changed .removed`,
    `audit.token.given`, `audit.secret.given`, `log.oauth.<level>`
answers: `do.oauth.put_resource`, `do.oauth.remove_resource`, `ask.oauth.resource`, `ask.oauth.resources`; and for runs
    `ask.oauth.token`, `ask.oauth.secret`, `ask.oauth.variable`
"""
