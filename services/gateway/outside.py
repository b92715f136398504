"""Addresses that requests name: only those of hosts that the adapter has declared are asked."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from services.gateway.places import Reader
from services.gateway.received import Received
from shared.errors import Unauthenticated
from shared.verification import Outside

MOST_URL = 1024
_PART = "[a-z0-9-]+"


class OutsideAddress:
    """One declared address."""

    def __init__(self, declared: Outside) -> None:
        self._url = Reader(declared.url)
        self.place = declared.url
        self._host = re.compile("|".join(_PART.join(map(re.escape, host.split("*"))) for host in declared.hosts))

    def read(self, received: Received, item: Any = None) -> str:
        """Return the address that a request names. Raises `Unauthenticated` for none, or one of another host."""
        url = self._url.one(received, item) or ""
        try:
            parts = urlsplit(url)
            # The authority as a whole: no port, no name, no password.
            fits = parts.scheme == "https" and self._host.fullmatch(parts.netloc) is not None
        except ValueError:
            fits = False
        if not fits or len(url) > MOST_URL or not (url.isascii() and url.isprintable()) or "\\" in url:
            raise Unauthenticated(f"the {self.place} is no address of the sender's")
        return url
