"""The lean client over a real broker: what nats-py's own promises, it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import ipaddress
import os
import signal
import ssl
import tomllib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nats.aio.client import Client
from nats.aio.msg import Msg

from deploy.broker import binary
from deploy.nats_cluster import held_ports
from shared import client as module
from shared.client import LEAN_FOR, LeanClient, connect, subscribe, unique_name, write
from tests.support.inside import eventually
from tests.support.pausing import paused
from tests.support.servers import Place

PENDING = 2 * 1024 * 1024


@contextlib.asynccontextmanager
async def client_of(place: Place, *, errors: list[Exception] | None = None, **options: Any) -> AsyncIterator[Client]:
    """Connect as an operator for the block; what the client reports goes to `errors`, and fails the test without."""
    reported: list[Exception] = [] if errors is None else errors

    async def note(error: Exception) -> None:
        reported.append(error)

    given = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1, "error_cb": note, **options}
    client = await connect(servers=place.nats_url("admin"), **given)
    try:
        yield client
    finally:
        await client.close()
    if errors is None:
        assert reported == []


@pytest.fixture(params=["lean", "stock"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with both: the stock client is what another version of nats-py gets."""
    if request.param == "stock":
        monkeypatch.setattr(module, "LEAN_FOR", "0.0.0")
    return str(request.param)


class Heard:
    """Notes messages of a subscription."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self._event = asyncio.Event()

    def take(self, msg: Msg) -> None:
        self.messages.append(msg)
        self._event.set()

    async def take_later(self, msg: Msg) -> None:
        self.take(msg)

    async def count(self, count: int, within: float = 20) -> list[bytes]:
        """Wait for so many messages and return the data of all."""
        async with asyncio.timeout(within):
            while len(self.messages) < count:
                self._event.clear()
                await self._event.wait()
        return [msg.data for msg in self.messages]


def test_the_version_that_is_replaced_in_part_is_the_pinned_and_the_installed_one() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert f"nats-py=={LEAN_FOR}" in project["project"]["dependencies"]
    assert importlib.metadata.version("nats-py") == LEAN_FOR


async def test_another_version_is_used_as_it_is(place: Place, either: str) -> None:
    async with client_of(place) as client:
        assert isinstance(client, LeanClient) == (either == "lean")


async def test_what_is_published_arrives_in_order_with_its_headers_and_address(place: Place, either: str) -> None:
    async with client_of(place) as client:
        heard = Heard()
        await subscribe(client, "a.*", heard.take)
        for number in range(500):
            await client.publish(f"a.{number}", b"%d" % number, reply="r", headers={"N": str(number), "Text": " käse\r\nX: y "})
        await client.publish("a.x", b"")
        assert await heard.count(501) == [*(b"%d" % number for number in range(500)), b""]
        one = heard.messages[7]
        assert (one.subject, one.reply, one.headers) == ("a.7", "r", {"N": "7", "Text": "käse  X: y"})
        assert (heard.messages[-1].reply, heard.messages[-1].headers) == ("", None)


async def test_commands_that_are_written_follow_what_was_published(place: Place, either: str) -> None:
    async with client_of(place) as client:
        heard = Heard()
        await subscribe(client, "a", heard.take)
        await client.publish("a", b"1")
        await write(client, b"PUB a 1\r\n2\r\nPUB a 1\r\n3\r\n")
        await client.publish("a", b"4")
        assert await heard.count(4) == [b"1", b"2", b"3", b"4"]


async def test_members_of_a_queue_group_share(place: Place, either: str) -> None:
    async with client_of(place) as client, client_of(place) as other:
        one, two = Heard(), Heard()
        await subscribe(client, "a", one.take, queue="q")
        await subscribe(other, "a", two.take, queue="q")
        await client.flush()
        await other.flush()
        for _ in range(100):
            await client.publish("a", b"x")
        await client.flush()

        async def all_heard() -> bool:
            return len(one.messages) + len(two.messages) == 100

        await eventually(all_heard)
        assert one.messages
        assert two.messages


async def test_a_subscription_is_known_to_the_broker_after_one_flush(place: Place) -> None:
    async with client_of(place) as client, client_of(place) as other:
        for number in range(50):
            heard = Heard()
            await subscribe(client, f"a.{number}", heard.take)
            await client.flush()
            await other.publish(f"a.{number}", b"x")
            await heard.count(1)


async def test_an_error_of_the_function_is_reported_and_the_next_message_is_delivered(place: Place, either: str) -> None:
    errors: list[Exception] = []
    async with client_of(place, errors=errors) as client:
        heard = Heard()

        def take(msg: Msg) -> None:
            if msg.data == b"bad":
                raise ValueError("bad")
            heard.take(msg)

        await subscribe(client, "a", take)
        for data in (b"1", b"bad", b"2"):
            await client.publish("a", data)
        assert await heard.count(2) == [b"1", b"2"]
        await client.flush()
        assert [str(error) for error in errors] == ["bad"]


async def test_questions_are_answered_each_with_its_own(place: Place, either: str) -> None:
    async with client_of(place) as client, client_of(place) as other:

        async def answer(msg: Msg) -> None:
            await msg.respond(msg.data * 2)

        await other.subscribe("double", cb=answer)
        await other.flush()
        answers = await asyncio.gather(*(client.request("double", b"%d;" % n, timeout=10, headers={"N": "1"}) for n in range(500)))
        assert [one.data for one in answers] == [b"%d;%d;" % (n, n) for n in range(500)]


async def test_a_question_that_nobody_answers_fails_at_once_or_in_time(place: Place, either: str) -> None:
    async with client_of(place) as client:
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request("nobody", b"", timeout=60)
        heard = Heard()
        await subscribe(client, "silent", heard.take)
        with pytest.raises(nats.errors.TimeoutError):
            await client.request("silent", b"", timeout=0.05)
        # The answer that comes too late is nobody's, and does no harm.
        await heard.count(1)
        (late,) = heard.messages
        await late.respond(b"late")
        await client.flush()
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request("nobody", b"", timeout=60)
        assert client._resp_map == {}


async def test_a_subject_that_would_be_read_as_more_than_one_is_refused(place: Place) -> None:
    async with client_of(place) as client:
        for subject in ("", "a b", "a\r\nPUB b 0", "a\tb"):
            for refused in (
                client.publish(subject, b""),
                client.publish("a", b"", reply=subject or " "),
                client.request(subject, b""),
                subscribe(client, subject, Heard().take),
            ):
                with pytest.raises(nats.errors.BadSubjectError):
                    await refused
            with pytest.raises(nats.errors.BadHeaderError):
                await client.publish("a", b"", headers={f"X{subject}: y": "z"})


async def test_more_than_the_broker_takes_is_refused_and_the_connection_goes_on(place: Place, either: str) -> None:
    async with client_of(place) as client:
        heard = Heard()
        await subscribe(client, "a", heard.take)
        for refused in (client.publish("a", bytes(client.max_payload + 1)), client.request("a", bytes(client.max_payload + 1))):
            with pytest.raises(nats.errors.MaxPayloadError):
                await refused
        await client.publish("a", bytes(client.max_payload))
        assert await heard.count(1) == [bytes(client.max_payload)]


async def test_what_is_not_allowed_is_reported_and_the_connection_goes_on(place: Place) -> None:
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    client = await connect(servers=place.nats_url("oauth"), inbox_prefix=b"_INBOX_oauth", error_cb=note)
    try:
        await client.publish("run.x.requested", b"{}")
        await client.flush()
        await client.flush()
        assert ["permissions violation" in str(error) for error in errors] == [True]
        assert client.is_connected
    finally:
        await client.close()


async def test_a_slow_subscription_of_nats_pys_own_loses_what_it_may_and_reports_it(place: Place) -> None:
    errors: list[Exception] = []
    async with client_of(place, errors=errors) as client:
        heard, going = Heard(), asyncio.Event()

        async def slow(msg: Msg) -> None:
            await going.wait()
            heard.take(msg)

        await client.subscribe("a", cb=slow, pending_msgs_limit=5)
        direct = Heard()
        await subscribe(client, "a", direct.take)
        for number in range(50):
            await client.publish("a", b"%d" % number)
        await direct.count(50)
        await client.flush()
        assert {type(error) for error in errors} == {nats.errors.SlowConsumerError}
        going.set()
        assert (await heard.count(5))[:5] == [b"%d" % number for number in range(5)]
        await client.publish("a", b"later")
        assert (await heard.count(len(heard.messages) + 1))[-1] == b"later"


async def test_publishing_waits_while_the_broker_does_not_read_and_loses_nothing(place: Place) -> None:
    async with client_of(place, pending_size=PENDING) as client, client_of(place) as other:
        heard = Heard()
        await subscribe(other, "a", heard.take)
        await other.flush()
        sizes: list[int] = []

        async def publish() -> None:
            for number in range(400):
                await client.publish("a", b"%d;" % number + bytes(100_000))
                sizes.append(client.pending_data_size + client._transport._transport.get_write_buffer_size())  # type: ignore[union-attr]

        async with paused(place.broker_pid):
            publishing = asyncio.create_task(publish())

            async def waits() -> bool:
                before = len(sizes)
                await asyncio.sleep(0.5)
                return 0 < before == len(sizes)

            await eventually(waits)
            assert not publishing.done()
        await publishing
        assert max(sizes) < 3 * PENDING
        assert [data.partition(b";")[0] for data in await heard.count(400)] == [b"%d" % number for number in range(400)]


async def test_many_that_publish_while_the_broker_does_not_read_wait_as_well(place: Place) -> None:
    async with client_of(place, pending_size=PENDING) as client, client_of(place) as other:
        heard = Heard()
        await subscribe(other, "a", heard.take)
        await other.flush()
        async with paused(place.broker_pid):
            tasks = [asyncio.create_task(client.publish("a", bytes(100_000))) for _ in range(300)]
            done, waiting = await asyncio.wait(tasks, timeout=1)
            assert done
            assert waiting
        await asyncio.gather(*tasks)
        await heard.count(300)


async def test_a_broker_killed_under_load_is_found_again_and_nothing_acknowledged_is_lost(place: Place) -> None:
    errors: list[Exception] = []
    async with client_of(place, errors=errors) as client:
        await client.jetstream(timeout=10).add_stream(name="THINGS", subjects=["things.*"])
        heard = Heard()
        await subscribe(client, "things.*", heard.take)
        acknowledged: list[str] = []
        stopping = asyncio.Event()

        async def store() -> None:
            while not stopping.is_set():
                name = unique_name()
                while name not in acknowledged:
                    try:
                        await client.request(f"things.{name}", name.encode(), timeout=1, headers={"Nats-Msg-Id": name})
                    except (nats.errors.Error, OSError):
                        await asyncio.sleep(0.05)
                    else:
                        acknowledged.append(name)

        tasks = [asyncio.create_task(store()) for _ in range(16)]

        async def more(count: int) -> None:
            target = len(acknowledged) + count
            async with asyncio.timeout(60):
                while len(acknowledged) < target:
                    await asyncio.sleep(0.01)

        await more(300)
        for _ in range(2):
            reconnects = client.stats["reconnects"]
            os.kill(place.broker_pid, signal.SIGKILL)

            async def again(before: int = reconnects) -> bool:
                return client.is_connected and client.stats["reconnects"] > before

            await eventually(again)
            await more(300)
        stopping.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        info = await client.jetstream(timeout=10).stream_info("THINGS")
        assert info.state.messages == len(acknowledged) == len(set(acknowledged))
        assert client._resp_map == {}
        # The subscription was made again with the connection.
        before = len(heard.messages)
        await client.publish("things.last", b"last")
        await heard.count(before + 1)
        assert heard.messages[-1].data == b"last"


async def test_a_broker_that_stands_still_is_given_up_and_found_again_with_full_buffers(place: Place) -> None:
    errors: list[Exception] = []
    async with client_of(place, errors=errors, ping_interval=0.2, max_outstanding_pings=2) as client, client_of(place) as other:
        heard = Heard()
        await subscribe(client, "a", heard.take)

        async def publish() -> None:
            with contextlib.suppress(nats.errors.Error):
                while True:
                    await client.publish("b", bytes(100_000))

        publishing = asyncio.create_task(publish())

        async def gone() -> bool:
            return not client.is_connected

        async def back() -> bool:
            return client.is_connected and client.stats["reconnects"] > 0

        async with paused(place.broker_pid):
            await eventually(gone)
        await eventually(back)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await client.flush()
        await other.publish("a", b"x")
        await heard.count(1)


async def test_draining_hands_on_what_is_there_and_sends_what_was_published(place: Place, either: str) -> None:
    async with client_of(place) as client, client_of(place) as other:
        direct, own, far = Heard(), Heard(), Heard()

        async def slow(msg: Msg) -> None:
            await asyncio.sleep(0)
            own.take(msg)

        await subscribe(client, "a", direct.take)
        await client.subscribe("a", cb=slow)
        await subscribe(other, "b", far.take)
        for _ in range(2):  # nats-py writes the PING of a flush past subscriptions that are still in its buffer
            await client.flush()
            await other.flush()
        for _ in range(1000):
            await other.publish("a", b"x")
        await other.flush()
        for _ in range(1000):
            await client.publish("b", b"y")
        await client.drain()
        assert client.is_closed
        assert (len(direct.messages), len(own.messages)) == (1000, 1000)
        await far.count(1000)
        with pytest.raises(nats.errors.ConnectionClosedError):
            await client.publish("b", b"z")
        with pytest.raises(nats.errors.ConnectionClosedError):
            await subscribe(client, "b", far.take)


async def test_a_subscription_that_was_ended_hears_nothing_more(place: Place, either: str) -> None:
    async with client_of(place) as client:
        ended, heard = Heard(), Heard()
        one = await subscribe(client, "a", ended.take)
        await subscribe(client, "a", heard.take)
        await client.publish("a", b"1")
        await heard.count(1)
        await client.flush()
        await one.unsubscribe()
        await client.publish("a", b"2")
        await heard.count(2)
        await client.flush()
        assert [msg.data for msg in ended.messages] == [b"1"]


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


async def test_over_tls_everything_is_the_same(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with held_ports(1) as (port,):
        config = tmp_path / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{port}"\ntls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
        process = await asyncio.create_subprocess_exec(str(binary()), "-c", str(config), stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                while b"Server is ready" not in await process.stderr.readline():
                    pass
            context = ssl.create_default_context(cafile=str(certificate))
            client = await connect(f"tls://127.0.0.1:{port}", tls=context)
            try:
                assert isinstance(client, LeanClient)
                heard = Heard()
                await subscribe(client, "a", heard.take)
                for number in range(100):
                    await client.publish("a", b"%d;" % number + bytes(50_000))
                assert [data.partition(b";")[0] for data in await heard.count(100)] == [b"%d" % number for number in range(100)]
                with pytest.raises(nats.errors.NoRespondersError):
                    await client.request("nobody", b"", timeout=10)
                await client.force_reconnect()

                async def again() -> bool:
                    return client.is_connected and client.stats["reconnects"] == 1

                await eventually(again)
                await client.publish("a", b"again")
                assert (await heard.count(101))[-1] == b"again"
            finally:
                await client.close()
        finally:
            process.terminate()
            await process.wait()
