"""Providers, connections, secrets and variables: given to runs by organization and name (decision 0008: why one service).

And identity providers: whom one vouches for (decision 0072).

owns: schema `oauth`; credentials are sealed in `vault`, providers' tokens in `token`, and nowhere else; variables are made of their
    messages into `resource`
reads: CONNECTIONS and CATALOG (to find the last message of one connection, provider, secret or variable; variables into rows)
writes: `connection.<id>.authorized .refreshed .refresh_failed .needs_reauthorization .revoked`, `provider.<id>.changed .removed`,
    `identity_provider.<id>.changed .removed`,
    `secret.<id>.changed .removed` (never a value), `variable.<key>.changed .removed`, `audit.token.given`, `audit.secret.given`,
    `log.oauth.<level>`
asks: the providers' addresses, under the egress policy of the connection's organization
answers: `do.oauth.put_resource`, `do.oauth.remove_resource`, `ask.oauth.resource`, `ask.oauth.resources`,
    `ask.oauth.known_providers`, `do.oauth.begin_authorization`, `ask.oauth.asked_authorization`,
    `do.oauth.open_authorization`, `do.oauth.finish_authorization`,
    `do.oauth.refresh_connection`; of people who sign in `ask.oauth.sign_in_providers`, `do.oauth.begin_sign_in`,
    `do.oauth.finish_sign_in`, `ask.oauth.sign_out`; and for runs `ask.oauth.token`, `ask.oauth.secret`, `ask.oauth.variable`
"""
