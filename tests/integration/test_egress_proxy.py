"""The proxy reaches what it may, refuses the rest with the reason, counts every byte, and leaves nothing behind."""

import asyncio
import base64
import hashlib
import os
import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest
import uvloop

from services.executor.sandbox.egress.network import EgressLimits, Record
from services.executor.sandbox.egress.relay import Relay
from shared.egress.resolver import EACH, Resolver, is_own
from tests.support.egress import Names, Outlet, answer, connect, echo, listening, outlet, resolver, server, tunnel
from tests.support.inside import eventually

SHORT = 0.05


def stripped(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__ if name != "duration_ms"}


async def test_a_tunnel_carries_bytes_both_ways_and_counts_them_exactly() -> None:
    data = os.urandom(20_000_003)
    async with server(echo) as port, outlet() as out:
        async with out.connection() as ends:
            reader, writer = await tunnel(ends, f"127.0.0.1:{port}")

            async def send() -> None:
                for at in range(0, len(data), 70_001):
                    writer.write(data[at : at + 70_001])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            back = hashlib.sha256()
            while piece := await reader.read(65536):
                back.update(piece)
            await sending
        assert back.digest() == hashlib.sha256(data).digest()
        assert stripped(await out.record()) == {
            "outcome": "connected",
            "reason": "closed",
            "host": "127.0.0.1",
            "port": port,
            "address": "127.0.0.1",
            "sent": len(data),
            "received": len(data),
        }


async def test_what_follows_the_head_in_the_same_packet_is_not_lost() -> None:
    async with server(echo) as port, outlet() as out, out.connection() as (reader, writer):
        writer.write(connect(f"127.0.0.1:{port}") + b"early")
        assert (await answer(reader))[0] == 200
        assert await reader.readexactly(5) == b"early"
        writer.write_eof()
        assert await reader.read() == b""
        assert (await out.record()).sent == 5


async def test_each_side_may_end_first() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"and a word after your end"

    async with server(greet) as port, server(echo) as echo_port, outlet() as out:
        async with out.connection() as ends:
            reader, writer = await tunnel(ends, f"127.0.0.1:{port}")
            assert await reader.read() == b"hello"
            writer.write(b"and a word after your end")
            writer.write_eof()
            assert (await out.record()).reason == "closed"
        async with out.connection() as ends:
            reader, writer = await tunnel(ends, f"127.0.0.1:{echo_port}")
            writer.write(b"last words")
            writer.write_eof()
            assert await reader.read() == b"last words"
            assert (await out.record()).reason == "closed"


async def test_a_plain_request_is_served_and_its_answer_passed_on() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n" + body)

    async with server(serve) as port, outlet(Names(api_example="127.0.0.1")) as out:
        head = (
            f"POST http://api.example:{port}/a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nping"
        )
        status, _, body = await out.ask(head.encode())
        assert (status, body) == (200, b"ping")
        sent = f"POST /a?b=c HTTP/1.1\r\nHost: api.example:{port}\r\nContent-Length: 4\r\nConnection: close\r\n\r\n".encode()
        assert heads == [sent]
        record = await out.record()
        assert (record.host, record.address, record.sent) == ("api.example", "127.0.0.1", len(sent) + 4)
        assert record.received == len(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f000001", "loopback"),
        ("0x7f.1", "loopback"),
        ("127.1", "loopback"),
        ("0177.0.0.1", "loopback"),
        ("0", "unspecified"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "embedded"),
        ("[::ffff:7f00:1]", "embedded"),
        ("[::127.0.0.1]", "embedded"),
        ("[64:ff9b::7f00:1]", "embedded"),
        ("[2002:7f00:1::]", "embedded"),
        ("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "embedded"),
        ("169.254.169.254", "metadata"),
        ("[::ffff:169.254.169.254]", "embedded"),
        ("2852039166", "metadata"),
        ("168.63.129.16", "metadata"),
        ("[fd00:ec2::254]", "metadata"),
        ("10.0.0.1", "private"),
        ("172.20.0.1", "private"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "shared"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
    ],
)
async def test_what_is_not_public_is_refused_by_tunnel_and_by_plain_request(host: str, code: str) -> None:
    reached: list[bool] = []

    async def note(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reached.append(True)

    async with server(note) as port, resolver() as resolve, outlet(resolve, allow="") as out:
        for head in (connect(f"{host}:{port}"), f"GET http://{host}:{port}/ HTTP/1.1\r\n\r\n".encode()):
            status, fields, body = await out.ask(head)
            assert status == 403
            assert fields["proxy-status"].startswith("millrace; error=destination_ip_prohibited; details=")
            reason = body.decode().strip()
            assert reason in fields["proxy-status"]
            assert fields[":phrase"] == f"Forbidden by Millrace: {reason}"
            record = await out.record()
            assert (record.outcome, record.reason, record.port) == ("denied", code, port)
            assert record.address is not None
    assert not reached


async def test_a_name_is_resolved_once_whatever_it_would_answer_next() -> None:
    names = Names(rebind_example=["127.0.0.1", "169.254.169.254"])
    async with server(echo) as port, outlet(names) as out, out.connection() as ends:
        await tunnel(ends, f"rebind.example:{port}")
        assert names.asked == ["rebind.example"]


async def test_a_name_that_turns_private_is_refused_from_then_on() -> None:
    names = Names(rebind_example=["127.0.0.1", "10.0.0.1"])
    async with server(echo) as port, outlet(names) as out:
        async with out.connection() as ends:
            await tunnel(ends, f"rebind.example:{port}")
        status, _, body = await out.ask(connect(f"rebind.example:{port}"))
        assert (status, body) == (403, b"rebind.example resolves to 10.0.0.1 is a private address\n")


@pytest.mark.parametrize("addresses", ["127.0.0.1 10.0.0.1", "10.0.0.1 127.0.0.1", "127.0.0.1 ::ffff:127.0.0.1"])
async def test_one_address_that_may_not_be_reached_refuses_the_name(addresses: str) -> None:
    async with server(echo) as port, outlet(Names(mixed_example=addresses)) as out:
        assert (await out.ask(connect(f"mixed.example:{port}")))[0] == 403


async def test_an_operators_denial_names_its_entry_and_asks_no_resolver() -> None:
    names = Names()
    async with outlet(names, deny="*.evil.example") as out:
        status, fields, body = await out.ask(connect("a.evil.example:443"))
        assert (status, body) == (403, b"a.evil.example is denied by this installation (by its entry '*.evil.example')\n")
        assert "http_request_denied" in fields["proxy-status"]
        assert (await out.record()).reason == "host"
    assert names.asked == []


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with listening() as taken:
        silent = taken.getsockname()[1]
    async with server(echo) as port, outlet(Names(two_example="127.0.0.2 127.0.0.1"), allow="127.0.0.0/8") as out:
        async with out.connection() as ends:
            await tunnel(ends, f"two.example:{port}")
        assert (await out.record()).address == "127.0.0.1"
        status, fields, _ = await out.ask(connect(f"two.example:{silent}"))
        assert status == 502
        assert "connection_refused" in fields["proxy-status"]
        record = await out.record()
        assert (record.outcome, record.reason) == ("failed", "refused")


async def test_a_name_without_an_address_is_said_to_have_none() -> None:
    async with outlet() as out:
        status, fields, body = await out.ask(connect("nobody.example:443"))
        assert (status, body) == (502, b"nobody.example has no address\n")
        assert "dns_error" in fields["proxy-status"]


async def test_a_resolver_that_is_silent_is_not_waited_for() -> None:
    async def silent(_host: str) -> list[Any]:
        return await asyncio.get_running_loop().create_future()

    async with outlet(silent, limits=EgressLimits(resolve_seconds=SHORT)) as out:
        status, fields, _ = await out.ask(connect("slow.example:443"))
        assert status == 504
        assert "dns_timeout" in fields["proxy-status"]


async def test_a_head_that_trickles_in_is_cut_off() -> None:
    async with outlet(limits=EgressLimits(head_seconds=SHORT)) as out, out.connection() as (reader, writer):
        writer.write(b"CONNECT ")

        async def trickle() -> None:
            while True:
                writer.write(b"a")
                await asyncio.sleep(SHORT / 10)

        trickling = asyncio.create_task(trickle())
        status, fields = await answer(reader)
        trickling.cancel()
        assert status == 408
        assert "no whole request came" in fields[":phrase"]


@pytest.mark.parametrize("line", ["X: " + "x" * 40_000, "\r\n".join(f"X-{n}: {'y' * 100}" for n in range(400))])
async def test_a_head_that_is_too_large_is_refused_and_the_refusal_arrives(line: str) -> None:
    async with outlet() as out:
        status, fields, body = await out.ask(connect("a.example:443", line))
        assert status == 431
        assert b"over 32768 bytes" in body
        assert "http_request_error" in fields["proxy-status"]


async def test_a_head_without_end_is_refused_before_it_is_kept() -> None:
    async with outlet() as out, out.connection() as (reader, writer):
        writer.write(b"x" * 8_000_000)  # more than the kernel takes in: the refusal comes while this is still being sent
        assert (await answer(reader))[0] == 431


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"CONNECT a b:1 HTTP/1.1\r\n\r\n", b"\r\n\r\n"]
)
async def test_what_is_no_proxy_request_is_told_so(head: bytes) -> None:
    async with outlet() as out:
        assert (await out.ask(head))[0] == 400


async def test_who_goes_away_before_asking_leaves_no_record() -> None:
    async with server(echo) as port, outlet() as out:
        async with out.connection() as (_, writer):
            writer.write(b"CONN")
        async with out.connection() as ends:
            await tunnel(ends, f"127.0.0.1:{port}")
        assert (await out.record()).outcome == "connected"
        assert out.told_all


async def test_only_who_has_the_token_is_served() -> None:
    def field(token: str) -> str:
        return "Proxy-Authorization: Basic " + base64.b64encode(f"run:{token}".encode()).decode()

    async with server(echo) as port, outlet(token="sesame-open") as out:
        assert out.address == f"http://run:sesame-open@127.0.0.1:{out.port}"
        for lines in ((), (field("sesame-shut"),), (field(""),), ("Proxy-Authorization: Bearer sesame-open",)):
            status, fields, _ = await out.ask(connect(f"127.0.0.1:{port}", *lines))
            assert status == 407
            assert fields["proxy-authenticate"].startswith("Basic")
        async with out.connection() as (reader, writer):
            writer.write(connect(f"127.0.0.1:{port}", field("sesame-open")))
            assert (await answer(reader))[0] == 200


async def test_the_token_is_not_passed_on() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with server(serve) as port, outlet(token="t") as out:
        field = base64.b64encode(b"run:t").decode()
        head = f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nProxy-Authorization: Basic {field}\r\n\r\n"
        assert (await out.ask(head.encode()))[0] == 204
    assert b"uthorization" not in heads[0]


async def test_more_connections_than_the_limit_are_refused_until_one_ends() -> None:
    async with server(echo) as port, outlet(limits=EgressLimits(connections=2)) as out:
        target = f"127.0.0.1:{port}"
        async with out.connection() as one, out.connection() as other:
            await tunnel(one, target)
            await tunnel(other, target)
            status, fields, body = await out.ask(connect(target))
            assert (status, body) == (503, b"the run has 2 connections open, which is the limit\n")
            assert "connection_limit_reached" in fields["proxy-status"]
            other[1].close()

            async def served_again() -> bool:
                async with out.connection() as (reader, writer):
                    writer.write(connect(target))
                    return (await answer(reader))[0] == 200

            assert await eventually(served_again)
            one[1].write(b"still here")
            assert await one[0].readexactly(10) == b"still here"


async def test_a_flood_of_connections_waits_in_the_kernel() -> None:
    limits = EgressLimits(connections=50, burst=3, per_second=0.001)
    async with server(echo) as port, outlet(limits=limits) as out, out.connection() as ends, out.connection() as refused:
        reader, writer = await tunnel(ends, f"127.0.0.1:{port}")
        refused[1].write(connect("10.0.0.1:80"))
        assert (await answer(refused[0]))[0] == 403
        async with out.connection() as third, out.connection() as fourth:
            for one in (third, fourth):
                one[1].write(connect("10.0.0.1:80"))
            assert (await answer(third[0]))[0] == 403
            for _ in range(100):
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
            await out.proxy.close()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await answer(fourth[0])


async def test_a_refusal_keeps_its_reason_when_the_run_ends_at_once() -> None:
    async with outlet() as out, out.connection() as (reader, writer):
        writer.write(connect("10.0.0.1:80"))
        assert (await answer(reader))[0] == 403
        await out.proxy.close()
        record = await out.record()
        assert (record.outcome, record.reason) == ("denied", "private")


async def test_what_was_accepted_and_not_begun_is_closed_with_the_run() -> None:
    async with outlet() as out:
        with socket.create_connection(("127.0.0.1", out.port)) as client:
            out.proxy._accept()
            await out.proxy.close()
            assert client.recv(1) == b""


async def test_a_connection_where_nothing_moves_is_ended() -> None:
    async with server(echo) as port, outlet(limits=EgressLimits(idle_seconds=SHORT)) as out, out.connection() as ends:
        reader, _ = await tunnel(ends, f"127.0.0.1:{port}")
        assert await reader.read() == b""
        assert (await out.record()).reason == "idle"


async def test_a_half_that_stays_open_is_ended_sooner() -> None:
    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.get_running_loop().create_future()

    limits = EgressLimits(idle_seconds=20, half_open_seconds=SHORT)
    async with server(leave) as port, outlet(limits=limits) as out, out.connection() as ends:
        reader, _ = await tunnel(ends, f"127.0.0.1:{port}")
        assert await reader.read() == b""
        assert (await out.record()).reason == "half_open"


async def test_a_server_that_breaks_off_is_told_as_a_reset() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with server(break_off) as port, outlet() as out, out.connection() as ends:
        _, writer = await tunnel(ends, f"127.0.0.1:{port}")
        writer.write(b"x")
        record = await out.record()
        assert (record.outcome, record.reason, record.sent) == ("connected", "reset", 1)


async def test_the_end_of_the_run_ends_everything_with_a_record() -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"four")
        await reader.read()
        ended.set()

    async with server(wait) as port, outlet() as out, out.connection() as open_one, out.connection() as (half, half_writer):
        reader, _ = await tunnel(open_one, f"127.0.0.1:{port}")
        assert await reader.readexactly(4) == b"four"
        half_writer.write(b"CONNECT ")
        await half_writer.drain()
        await out.proxy.close()
        record = await out.record()
        assert (record.outcome, record.reason, record.received) == ("connected", "run_ended", 4)
        await ended.wait()
        assert out.told_all
        for one in (reader, half):
            with pytest.raises((ConnectionResetError, EOFError, asyncio.IncompleteReadError)):
                await one.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", out.port)


async def test_what_nobody_takes_is_not_read() -> None:
    """A reader that is slow slows the writer; what waits in between stays small."""
    pairs = [socket.socketpair(), socket.socketpair()]
    for pair in pairs:
        for one in pair:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    (outer, near_socket), (far_socket, taker) = pairs
    near = await asyncio.open_connection(sock=near_socket, limit=65536)
    far = await asyncio.open_connection(sock=far_socket, limit=65536)
    _, writer = await asyncio.open_connection(sock=outer)
    reader, taking = await asyncio.open_connection(sock=taker)
    reader._transport.pause_reading()
    relay = Relay(idle=30, half_open=30)
    running = asyncio.create_task(relay.run(near, far))
    total = 32 << 20
    writer.write(bytes(total))
    writer.write_eof()

    async def is_paused() -> bool:
        return not near[1].transport.is_reading()

    await eventually(is_paused)
    assert relay.sent < 2 << 20
    reader._transport.resume_reading()
    taken = 0
    while piece := await reader.read(1 << 20):
        taken += len(piece)
    taking.write_eof()
    assert await running == "closed"
    assert taken == relay.sent == total
    for one in (near[1], far[1], writer, taking):
        one.transport.abort()


async def test_slow_names_of_one_organization_leave_threads_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    begun = threading.Semaphore(0)

    def look_up(host: str) -> list[Any]:
        if host == "slow":
            begun.release()
            release.wait(20)
        return []

    monkeypatch.setattr("shared.egress.resolver._look_up", look_up)
    made = Resolver()
    slow = [asyncio.create_task(made.of("acme")("slow")) for _ in range(EACH * 4)]
    try:
        for _ in range(EACH):
            await asyncio.to_thread(begun.acquire)
        assert await made.of("globex")("fast") == []
        assert not any(task.done() for task in slow)
        assert not begun.acquire(blocking=False)
    finally:
        release.set()
        await asyncio.gather(*slow)
        made.close()


def test_a_machines_own_address_is_known_without_sending_anything() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("240.0.0.1"))


async def test_it_serves_in_the_event_loop_of_the_service_too() -> None:
    async def whole() -> Record:
        async with server(echo) as port, outlet() as out:
            async with out.connection() as ends:
                reader, writer = await tunnel(ends, f"127.0.0.1:{port}")
                writer.write(b"x" * 3_000_000)
                writer.write_eof()
                assert len(await reader.read()) == 3_000_000
            record = await out.record()
            assert (await out.ask(connect("10.0.0.1:80")))[0] == 403
            async with out.connection() as ends:
                await tunnel(ends, f"127.0.0.1:{port}")
                await out.proxy.close()
            return record

    record = await asyncio.to_thread(uvloop.run, whole())
    assert (record.reason, record.sent, record.received) == ("closed", 3_000_000, 3_000_000)


async def test_two_runs_speak_on_sockets_of_their_own() -> None:
    async def record_of(out: Outlet, port: int) -> Record:
        async with out.connection() as ends:
            await tunnel(ends, f"127.0.0.1:{port}")
        return await out.record()

    async with server(echo) as port, outlet() as one, outlet(allow="") as other:
        assert (await record_of(one, port)).outcome == "connected"
        assert (await other.ask(connect(f"127.0.0.1:{port}")))[0] == 403
        assert one.told_all
