"""Where trees are kept: a bucket of the broker, and copies outside of it, in a folder or a bucket of an object store."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import nats.errors
import nats.js.errors
import obstore
from nats.aio.client import Client
from nats.js.kv import KeyValue
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from shared.errors import Conflict, Unavailable
from shared.streams import DIGESTS

# A copy that is away is tried again at the next look: others wait meanwhile.
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}


def object_store(url: str, *, timeout: str) -> Any:
    """Open `file:///folder`, `s3://bucket/prefix` and the like; `timeout` is for each request. Raises BaseError."""
    if url.startswith("file:"):
        # A path may have any character.
        return LocalStore(url2pathname(urlsplit(url).path), mkdir=True)
    # What is given here hides what the environment says of the same.
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
    client: Any = {"timeout": timeout, "connect_timeout": "5s", "allow_http": plain}
    return from_url(url, client_options=client, retry_config=_RETRIES)


class TreeBucket:
    """The files of one stream's tree in the broker's bucket. Each is replaced only by one who knows what it holds."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._prefix = f"{stream.lower()}/"
        self._kv: KeyValue | None = None

    async def get(self, name: str) -> bytes | None:
        """Return a file's content; None where there is none. Raises `Unavailable`."""
        return (await self._found(name))[0]

    async def replace(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Make `new` the content of a file that has `old` (None: where there is no file); False where it has another one.

        Raises `Unavailable`.
        """
        found, revision = await self._found(name)
        if found != old:
            return False
        try:
            await (await self._bucket()).update(self._prefix + name, new, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return False
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the bucket {DIGESTS} cannot be written: {type(error).__name__}") from error
        return True

    async def extend(self, name: str, kept: bytes, new: bytes) -> None:
        """Make `new`, which begins with `kept`, the content of a file that begins with `kept`, unless it begins with `new`.

        What a file holds beyond `kept` no checkpoint has named. Raises `Conflict` where it holds something else, or another one
        writes it; `Unavailable`.
        """
        old = await self.get(name)
        if not (old or b"").startswith(kept):
            raise Conflict(f"{name} does not hold what the checkpoint says")
        if old is not None and old.startswith(new):
            return
        if not await self.replace(name, old, new):
            raise Conflict(f"{name} is being written by another one")

    async def _found(self, name: str) -> tuple[bytes | None, int]:
        try:
            found = await (await self._bucket()).get(self._prefix + name)
        except nats.js.errors.KeyNotFoundError as absent:
            return None, (absent.entry.revision or 0) if absent.entry else 0
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the bucket {DIGESTS} cannot be read: {type(error).__name__}") from error
        return found.value or b"", found.revision or 0

    async def _bucket(self) -> KeyValue:
        if self._kv is None:
            self._kv = await self._client.jetstream(timeout=5).key_value(DIGESTS)
        return self._kv


class TreeCopy:
    """The files of one stream's tree below a URL: `file:///folder`, `s3://bucket/prefix`, and what else `obstore` opens.

    Credentials and the region of object stores come from the environment, as `obstore` reads it (`AWS_…`).
    """

    def __init__(self, url: str, stream: str) -> None:
        self._store = object_store(url, timeout="10s")
        self._prefix = f"{stream.lower()}/"

    async def get(self, name: str) -> bytes | None:
        """Return a file's content; None where there is none. Raises `Unavailable`."""
        try:
            return bytes(await (await obstore.get_async(self._store, self._prefix + name)).bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise Unavailable(f"the copy of the digests cannot be read: {type(error).__name__}") from error

    async def put(self, name: str, content: bytes) -> None:
        """Write a file as a whole. Raises `Unavailable`."""
        try:
            await obstore.put_async(self._store, self._prefix + name, content)
        except (BaseError, OSError) as error:
            raise Unavailable(f"the copy of the digests cannot be written: {type(error).__name__}") from error

    async def remove(self, name: str) -> None:
        """Remove a file that is of no more use, where that is allowed and possible."""
        with contextlib.suppress(BaseError, OSError):
            await obstore.delete_async(self._store, self._prefix + name)
