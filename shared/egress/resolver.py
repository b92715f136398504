"""Resolves names to addresses, by the machine's own resolver; slow names of one organization hold up no other."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from shared.egress.addresses import Address

Resolve = Callable[[str], Awaitable[list[Address]]]
"""Answers a name's addresses, best first, at least one; raises OSError when there is none."""

MOST = 16
"""Addresses of a name that are looked at: no more are tried, and judging thousands would hold up all others."""
THREADS = 32
"""Look-ups at a time. The C library cannot be interrupted: a name whose server is silent takes some ten seconds of one."""
EACH = 8
"""Look-ups of one organization at a time: a quarter, so that four have to conspire to hold up a fifth."""


class Resolver:
    """Resolves names in threads of its own, because the event loop's are needed for files. Its creator must `close` it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "egress-resolver")
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(EACH))

    def of(self, org: str) -> Resolve:
        """Return a function that resolves for one organization."""

        async def resolve(host: str) -> list[Address]:
            place = self._places[org]
            await place.acquire()
            looking = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
            looking.add_done_callback(lambda _: place.release())  # with the thread's end, not the asker's
            return await asyncio.shield(looking)

        return resolve

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found[:MOST]))


def is_own(address: Address) -> bool:
    """Return whether an address is this machine's: a port that it opens only to itself is closed to every run.

    Asks the routing table and sends nothing: a connection to oneself has the same address at both ends.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == str(address))
