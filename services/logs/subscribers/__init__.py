"""Subscribers: who reads messages over NATS by a key, what they are told, and the end of it when the key is over.

`admission` decides, `connections` answers the broker and cuts, `telling` repeats what is archived; all know the keys from `grants`.
"""
