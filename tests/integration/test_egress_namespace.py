"""A process in a network namespace of its own reaches what the proxy on its listening socket reaches, and nothing else."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.executor.sandbox.egress.proxy import is_shared
from tests.support.egress import listening, outlet, server

ROOT = Path(__file__).parents[2]
CLONE = 0x40000000 | (0 if os.geteuid() == 0 else 0x10000000)

# Runs in the throwaway namespace: brings its loopback up, listens, hands the socket over, and only then begins.
INSIDE = """
import ctypes, fcntl, json, os, socket, struct, sys, urllib.request
assert ctypes.CDLL(None).unshare(int(sys.argv[1])) == 0
def up(name, address=None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        if address:
            wanted = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(asking, 0x8916, wanted)
        fcntl.ioctl(asking, 0x8914, struct.pack("16sH14x", name, 0x1 | 0x40))
"""

FETCH = (
    INSIDE
    + """
up(b"lo")
listener = socket.create_server(("127.0.0.1", 3128))
with socket.socket(fileno=int(sys.argv[2])) as control:
    socket.send_fds(control, [b"it"], [listener.fileno()])
    assert control.recv(1) == b"!"
told = {}
for name, opener in (
    ("through", urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:3128"}))),
    ("past", urllib.request.build_opener(urllib.request.ProxyHandler({}))),
):
    try:
        told[name] = opener.open(sys.argv[3], timeout=20).read().decode()
    except OSError as error:
        told[name] = str(error)
print(json.dumps(told))
"""
)

OWN = (
    INSIDE
    + """
up(b"lo")
up(b"lo:1", "9.9.9.9")
import asyncio
from ipaddress import ip_address
from shared.egress.resolver import is_own
from tests.support.egress import connect, outlet
async def refused(allow):
    async with outlet(allow=allow) as out:
        status, _, body = await out.ask(connect("9.9.9.9:1"))
        return [status, body.decode().strip()]
print(json.dumps([
    [is_own(ip_address(one)) for one in ("9.9.9.9", "8.8.8.8")], asyncio.run(refused("")), asyncio.run(refused("9.9.9.9")),
]))
"""
)


def can_unshare() -> bool:
    code = f"import ctypes; raise SystemExit(ctypes.CDLL(None).unshare({CLONE}) != 0)"
    return subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="this machine gives nobody a network namespace")


async def test_a_run_in_its_own_namespace_has_one_way_out() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nreached")

    ours, theirs = socket.socketpair()
    async with server(serve) as port, outlet() as elsewhere:
        with ours, theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", FETCH, str(CLONE), str(theirs.fileno()), f"http://127.0.0.1:{port}/",
                stdout=subprocess.PIPE, pass_fds=[theirs.fileno()],
            )  # fmt: skip
            theirs.close()
            _, (descriptor,), _, _ = await asyncio.to_thread(socket.recv_fds, ours, 2, 1)
            listener = socket.socket(fileno=descriptor)
            assert not is_shared(listener)
            proxy = type(elsewhere.proxy)(elsewhere.proxy._network, listener)
            assert proxy.start() == "http://127.0.0.1:3128"
            ours.send(b"!")
            out, _ = await process.communicate()
            await proxy.close()
    assert b'"through": "reached"' in out
    assert b'"past": "<urlopen error [Errno 111]' in out
    assert (await elsewhere.record()).outcome == "connected"


def test_an_address_of_this_machine_is_refused_even_where_it_looks_public() -> None:
    done = subprocess.run([sys.executable, "-c", OWN, str(CLONE)], cwd=ROOT, capture_output=True, check=True, text=True, timeout=60)
    told = json.loads(done.stdout)
    assert told[0] == [True, False]
    assert told[1] == [403, "9.9.9.9 is an address of the machine that runs Millrace"]
    assert told[2] == [502, "9.9.9.9:1 refuses connections"]


def test_a_socket_of_this_namespace_is_shared() -> None:
    with listening() as ours:
        assert is_shared(ours)
