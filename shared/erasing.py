"""Erases single messages of a stream: their bytes on the broker's disk are overwritten."""

from __future__ import annotations

from collections.abc import Collection

from nats.aio.client import Client

from shared.projection import incarnation_of
from shared.pull import StreamError, api_request
from shared.tasks import each

# nats-server server/errors.json: no message found, sequence not found, message delete failed
_NO_MESSAGE = frozenset({10037, 10043, 10057})
# Messages that are being erased at a time: live work comes first.
AT_ONCE = 8


async def erase_messages(client: Client, stream: str, incarnation: str, sequences: Collection[int]) -> None:
    """Erase messages of this incarnation of a stream; those that are no longer there are passed over.

    Raises `Unavailable`, `StreamError`: call it again.
    """
    if await incarnation_of(client, stream) != incarnation:
        return  # the stream was made anew: what has these sequences now is something else

    async def erase(sequence: int) -> None:
        try:
            await api_request(client, f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": False})
        except StreamError as error:
            if error.code not in _NO_MESSAGE:
                raise

    await each(AT_ONCE, sequences, erase)
