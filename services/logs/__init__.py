"""The archive: every stream of the bus in Postgres, losslessly, and its search.

owns: schema `logs` (tables `message`, by day, `checkpoint`, `resource`, `alert`, `conversion`), the resource `search`
reads: every stream of `shared.streams.STREAMS`
writes: `log.logs.<level>`, `alert.<crossing>.raised`, `search.<key>.changed` and `.removed`
tells: subscribers over NATS, by keys for it, of every message (`subscribers`); answers the broker's question who they are
answers: `ask.logs.search` and its like, and questions and commands about searches
"""
