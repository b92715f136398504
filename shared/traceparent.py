"""The header `traceparent` (W3C Trace Context), and the trace of a chain."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import uuid_utils

# "00-" trace id "-" parent id "-" flags; later versions may go on after another dash. 512 characters are what the standard asks
# readers of the longest header of its own to take.
LONGEST = 512
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_SAMPLED = 1
# A namespace of ids for chains whose id is no UUID: fixed for ever.
_CHAINS = uuid_utils.UUID("0b1f4c52-9a53-5f0e-9d7d-2a8f0c3f6e11")


class SpanContext(NamedTuple):
    """The place of a span: 128 bits of its trace, 64 of its own, and whether the trace is recorded."""

    trace: int
    span: int
    sampled: bool = True

    def __str__(self) -> str:
        """Return the header."""
        return f"00-{self.trace:032x}-{self.span:016x}-{self.sampled:02x}"


def parsed(header: str | None) -> SpanContext | None:
    """Return what a header says; None where it is none, or is not as the standard has it."""
    if header is None or len(header) > LONGEST:
        return None
    form = _FORM.fullmatch(header.strip(" \t"))
    if form is None:
        return None
    version, trace, span, flags, more = form.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    context = SpanContext(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
    return context if context.trace and context.span else None


def only(headers: Sequence[str]) -> SpanContext | None:
    """Return what the one header of a request says; several are none, because it is not known which of them is true."""
    return parsed(headers[0]) if len(headers) == 1 else None


def trace_of(chain: str) -> int:
    """Return the trace id of a chain: the bits of its correlation id, which is a UUID, but for the chains of alerts."""
    digits = chain.replace("-", "")
    if len(digits) == 32:
        with contextlib.suppress(ValueError):
            return int(digits, 16) or 1
    return uuid_utils.uuid5(_CHAINS, chain).int
