"""Reports of a zygote about the children that it forked: one packet of JSON each, decoded into one of these."""

import msgspec

MAX_PACKET = 4096
"""Bytes of one report."""


class Hello(msgspec.Struct, frozen=True, tag_field="kind", tag="hello"):
    """The zygote has given up its rights and waits for requests; its pidfd comes with the packet.

    `proxy` is the address that children of a template use for their proxy unless they are given another.
    """

    proxy: str | None = None


class Born(msgspec.Struct, frozen=True, tag_field="kind", tag="born"):
    """A child was forked; its pidfd comes with the packet."""

    id: int


class Stillborn(msgspec.Struct, frozen=True, tag_field="kind", tag="stillborn"):
    """The kernel refused the fork."""

    id: int
    message: str


class ChildEnded(msgspec.Struct, frozen=True, tag_field="kind", tag="ended"):
    """A child was reaped. `code` is its exit code or minus a signal's number; usage includes the children it waited for."""

    id: int
    code: int
    cpu_ms: float
    max_rss_kb: int
    swept: bool


class Swept(msgspec.Struct, frozen=True, tag_field="kind", tag="swept"):
    """Nothing that the ended child left behind lives any more, or it withstood being killed for a second."""

    id: int


Report = Hello | Born | Stillborn | ChildEnded | Swept

_DECODER: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def decode(packet: bytes) -> Report:
    """Answer the report that a packet is. Raises `msgspec.MsgspecError`."""
    return _DECODER.decode(packet)
