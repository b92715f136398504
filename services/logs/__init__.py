"""The archive: every stream of the bus in Postgres, losslessly, and its search.

owns: schema `logs` (tables `message`, by day, and `checkpoint`)
reads: every stream of `shared.streams.STREAMS`
writes: `log.logs.<level>`
answers: `ask.logs.search`
"""
