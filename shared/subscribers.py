"""Subscribers: what the broker's configuration and the services agree on about those who read messages over NATS."""

from __future__ import annotations

from shared.streams import STREAMS

# Their account: nothing of the services' is there but what that one exports, and nothing comes out.
SUBSCRIBERS = "SUBSCRIBERS"
# What may be read: all but timers, which are a service's own. Whoever hears it is told of no shard.
READABLE = frozenset(noun for stream in STREAMS if not stream.owned and not stream.shard for noun in stream.nouns)
# Before the subject of a message as it is told to keys of the platform, and, with the organization behind it, to an organization's.
TOLD, TOLD_ORG = "told", "org"
# The question of the broker who somebody is whom it does not know (auth callout).
ADMITTING = "$SYS.REQ.USER.AUTH"
# Questions to the broker itself: who is there, and to cut a connection of the server in between.
CONNECTIONS = f"$SYS.REQ.ACCOUNT.{SUBSCRIBERS}.CONNZ"
KICK = "$SYS.REQ.SERVER.{}.KICK"
