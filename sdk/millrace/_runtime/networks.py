"""The network namespaces of tier A: each for one child at a time, and for runs of one bundle only.

Making one and taking it down costs more than any other wall, and waits for locks of the whole kernel. So the zygote makes them,
and has one serve the same bundle again where nothing has happened in it: no packet was sent, not even to itself; nothing failed
that the kernel counts; no socket and no flow label is left. All else that a process without rights can change in a network
namespace goes with its sockets. One that any of this can be said of is closed, and the kernel clears it away. A child that is
made for no certain bundle makes its own, which goes with it.
"""

import os
from collections import deque

from millrace._runtime import kernel
from millrace._runtime.prepared import Calls

_MOST = 32
"""Namespaces that are kept; each is some 0.1 MB of the kernel's."""

# Files that show whether anything happened: packets, errors, attempts, labels. Of sockets only the number is this namespace's own.
_TRACES = ("dev", "snmp", "snmp6", "netstat", "ip6_flowlabel")
_SOCKETS = "sockstat"
_NO_SOCKET = b"sockets: used 0\n"


class Network:
    """One namespace, with nothing in it but its loopback interface."""

    def __init__(self, owner: str) -> None:
        """Make one and go into it. `owner` is the bundle that it is for. Raises OSError."""
        self.owner = owner
        kernel.unshare(kernel.NEW_NET)
        kernel.raise_loopback()
        self._descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._enter = Calls()
        self._enter.add("setns", self._descriptor, kernel.NEW_NET)
        self._sockets = _opened(_SOCKETS)
        self._traces = [_opened(name) for name in _TRACES if os.path.exists(f"/proc/self/net/{name}")]
        self._untouched = [(trace, os.pread(trace, 65536, 0)) for trace in self._traces]

    def enter(self) -> None:
        """Go into it."""
        self._enter.make()

    @property
    def is_free(self) -> bool:
        """Whether no socket is left in the namespace; the supervisor holds a run's socket until the run has ended for it, too."""
        return os.pread(self._sockets, len(_NO_SOCKET), 0) == _NO_SOCKET

    @property
    def is_untouched(self) -> bool:
        """Whether the kernel reports the same of the namespace as when it was new."""
        return all(os.pread(trace, len(told) + 1, 0) == told for trace, told in self._untouched)

    def close(self) -> None:
        """Let go of it: it is gone when its processes and sockets are."""
        for descriptor in (self._descriptor, self._sockets, *self._traces):
            os.close(descriptor)


class Networks:
    """The namespaces that wait for a child. Used by the zygote alone."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._kept: deque[Network] = deque()

    def take(self, owner: str) -> Network:
        """Answer one for a child of this bundle; a new one where there is none. Raises OSError."""
        for network in [one for one in self._kept if one.owner == owner]:
            if not network.is_free:
                continue
            self._kept.remove(network)
            if network.is_untouched:
                return network
            network.close()
        try:
            return Network(owner)
        finally:
            kernel.setns(self._own, kernel.NEW_NET)

    def give(self, network: Network) -> None:
        """Take one back whose child is dead."""
        self._kept.append(network)
        if len(self._kept) > _MOST:
            self._kept.popleft().close()


def _opened(name: str) -> int:
    return os.open(f"/proc/self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
