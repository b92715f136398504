"""Bounds the supervisor's time that one child may take by talking: a child that floods waits itself, and not the others.

Bytes that are not read stay in the kernel's buffer, and a child whose buffer is full stands still until there is room.
"""

import asyncio

_SHARE = 0.1
"""Of the supervisor's time, once the beginning is used up."""
_AT_FIRST = 0.1
"""Seconds that a child may use at once: some four thousand lines."""
_AT_A_TIME = 0.0005
"""Seconds after which others have their turn in any case."""
_PER_FRAME = 20e-6
_PER_BYTE = 20e-9
"""Seconds that reading, checking and passing on takes: measured 16 µs for a line of 150 bytes, 12 ns a byte for long ones."""


class Ration:
    """One child's."""

    def __init__(self) -> None:
        self._left = _AT_FIRST
        self._turn = 0.0
        self._at = asyncio.get_running_loop().time()

    def charge(self, seconds: float) -> None:
        """Record work beside reading, for the next frame."""
        self._left -= seconds
        self._turn += seconds

    def spend(self, size: int) -> float | None:
        """Record a handled frame of so many bytes; return the seconds to wait before the next. None: read on.

        After 0 other children have their turn first.
        """
        cost = _PER_FRAME + size * _PER_BYTE
        self._turn += cost
        self._left -= cost
        if self._turn < _AT_A_TIME:
            return None
        self._turn = 0.0
        now = asyncio.get_running_loop().time()
        self._left = min(_AT_FIRST, self._left + (now - self._at) * _SHARE)
        self._at = now
        return max(0.0, -self._left / _SHARE)
