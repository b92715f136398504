"""Messages that the broker forgets after some seconds: subjects of a KV bucket, changed by compare-and-set.

`KeyValue.update` of nats-py drops the time to live, so that a lease that is renewed by it never ends: this is the protocol itself.
"""

from __future__ import annotations

import json

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.commit import WRONG_LAST_SEQUENCE
from shared.errors import Unavailable

REQUEST = 2.0
# Seconds after which the mark of what was removed is forgotten: the least that the broker takes.
MARKED = 1


class Expiring:
    """One bucket, whose stream allows a time to live for each message."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._client = client
        self.stream = f"KV_{bucket}"
        self.prefix = f"$KV.{bucket}"

    async def put(self, subject: str, document: bytes, *, seconds: int, expected: int | None = None) -> int | None:
        """Store a message for some seconds; returns its sequence, None if the last one of the subject was not the `expected` one.

        Raises `Unavailable` where it is not known whether it is stored.
        """
        return await self._publish(subject, document, {"Nats-TTL": f"{seconds}s"}, expected)

    async def remove(self, subject: str, *, expected: int | None = None) -> int | None:
        """Leave a mark that there is nothing, which is soon forgotten itself. Returns, and raises, as `put`."""
        return await self._publish(subject, b"", {"Nats-TTL": f"{MARKED}s", "KV-Operation": "DEL"}, expected)

    async def get(self, subject: str) -> tuple[int, bytes]:
        """Return the sequence and content of a subject's last message, (0, b"") where there is none; a mark has no content.

        A replica may answer that is behind: what matters is decided by `put`. Raises `Unavailable`.
        """
        msg = await self._request(f"$JS.API.DIRECT.GET.{self.stream}.{subject}", b"", None)
        headers = msg.headers or {}
        return int(headers.get("Nats-Sequence", 0)), msg.data

    async def _publish(self, subject: str, document: bytes, headers: dict[str, str], expected: int | None) -> int | None:
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        answer = json.loads((await self._request(subject, document, headers)).data)
        if refused := answer.get("error"):
            if refused.get("err_code") in WRONG_LAST_SEQUENCE:
                return None
            raise Unavailable(f"the broker refused a message of {self.prefix}: {refused.get('description')}")
        return int(answer["seq"])

    async def _request(self, subject: str, document: bytes, headers: dict[str, str] | None) -> Msg:
        try:
            return await self._client.request(subject, document, timeout=REQUEST, headers=headers)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker did not answer: {type(error).__name__}") from error
