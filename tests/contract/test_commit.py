"""Group commit on a real broker: one commit, many acks, a verdict for each, nothing twice and nothing lost."""

from __future__ import annotations

import asyncio

import msgspec
import nats
import pytest

from shared.commit import ACK_TIMEOUT, Journal, Refused, Stale
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.messages import RunCancelRequested, RunRequested, RunStarted, WebhookReceived
from shared.sending import COMMIT_TIMEOUT
from tests.support.inside import bus_of
from tests.support.pausing import paused
from tests.support.servers import Place


def received(source: str = "s") -> WebhookReceived:
    return WebhookReceived(
        source=source, delivery=new_id(), adapter="hmac", received_at="", method="POST", query=[], headers=[], body_base64=""
    )


def requested(run: str) -> RunRequested:
    return RunRequested(run=run, workflow="w", version="v", input={}, requested_by="test", timeout=60.0)


async def stored(place: Place, stream: str) -> dict[str, int]:
    """Return the sequence of every id in a stream; AssertionError when one is there twice."""
    client = await nats.connect(place.nats_url("admin"))
    try:
        js = client.jetstream()
        info = await js.stream_info(stream)
        found: dict[str, int] = {}
        for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            headers = (await js.get_msg(stream, sequence)).headers or {}
            assert headers["Nats-Msg-Id"] not in found
            found[headers["Nats-Msg-Id"]] = sequence
        return found
    finally:
        await client.close()


async def test_every_ack_names_its_own_sequence(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        sealed = [bus.seal(received(), org="default") for _ in range(500)]
        acks = await asyncio.gather(*(bus.journal.publish(one) for one in sealed))
    found = await stored(place, "WEBHOOKS")
    assert {one.envelope.id: ack.sequence for one, ack in zip(sealed, acks, strict=True)} == found


async def test_repeated_ids_share_one_outcome(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        sealed = [bus.seal(received(), org="default") for _ in range(20)]
        acks = await asyncio.gather(*(bus.journal.publish(one) for one in sealed * 5))
        assert [ack.sequence for ack in acks] == [ack.sequence for ack in acks[:20]] * 5
        assert [ack.duplicate for ack in acks] == [False] * 20 + [True] * 80
    assert len(await stored(place, "WEBHOOKS")) == 20


async def test_an_id_that_only_the_broker_knows_does_not_fail_its_neighbours(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        known = bus.seal(received(), org="default")
        first = await Journal(bus.client).publish(known)
        sealed = [bus.seal(received(), org="default") for _ in range(50)]
        acks = await asyncio.gather(*(bus.journal.publish(one) for one in [*sealed[:25], known, *sealed[25:]]))
        assert (acks[25].sequence, acks[25].duplicate) == (first.sequence, True)
        assert not any(ack.duplicate for ack in acks[:25] + acks[26:])
    assert len(await stored(place, "WEBHOOKS")) == 51


async def test_two_claims_of_one_run_in_one_turn_have_one_winner(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        for _ in range(30):
            runs = [new_id() for _ in range(10)]
            firsts = await asyncio.gather(*(bus.publish(bus.seal(requested(run), org="default")) for run in runs))
            claims = [
                bus.journal.append(bus.seal(RunStarted(run=run, attempt=1, executor=who, tier="none"), org="default"), first)
                for run, first in zip(runs, firsts, strict=True)
                for who in "ab"
            ]
            outcomes = await asyncio.gather(*claims, return_exceptions=True)
            for one, two in zip(outcomes[::2], outcomes[1::2], strict=True):
                assert sorted(isinstance(outcome, Stale) for outcome in (one, two)) == [False, True]


async def test_a_stale_claim_does_not_fail_its_neighbours(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        runs = [new_id() for _ in range(20)]
        firsts = await asyncio.gather(*(bus.publish(bus.seal(requested(run), org="default")) for run in runs))
        gone = bus.seal(RunCancelRequested(run=runs[7], requested_by="x"), org="default")
        await Journal(bus.client).append(gone, firsts[7])
        outcomes = await asyncio.gather(
            *(
                bus.journal.append(bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default"), first)
                for run, first in zip(runs, firsts, strict=True)
            ),
            return_exceptions=True,
        )
        assert [isinstance(outcome, Stale) for outcome in outcomes] == [number == 7 for number in range(20)]


async def test_while_disconnected_nothing_is_sent_and_nothing_is_stored_later(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        await bus.client._transport.drain()
        bus.client._status = bus.client.RECONNECTING
        try:
            with pytest.raises(Unavailable):
                await bus.journal.publish(bus.seal(received(), org="default"))
        finally:
            bus.client._status = bus.client.CONNECTED
    assert await stored(place, "WEBHOOKS") == {}


async def test_who_repeats_himself_is_not_answered_before_those_who_wait_for_the_disk(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        known = bus.seal(received(), org="default")
        await bus.journal.publish(known)
        assert (await bus.journal.publish(known)).duplicate
        async with paused(place.broker_pid):
            waiting = asyncio.create_task(bus.journal.publish(bus.seal(received(), org="default")))
            await asyncio.sleep(0)
            repeated = asyncio.create_task(bus.journal.publish(known))
            done, _ = await asyncio.wait([repeated], timeout=0.3)
            assert not done
        assert (await repeated).duplicate
        assert waiting.done()
        await waiting


async def test_a_paused_broker_is_unknown_in_time_and_the_same_ids_again_are_stored_once(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        sealed = [bus.seal(received(), org="default") for _ in range(200)]
        async with paused(place.broker_pid):
            outcomes = await asyncio.gather(*(bus.journal.publish(one) for one in sealed), return_exceptions=True)
            assert ACK_TIMEOUT < COMMIT_TIMEOUT, "callers hear before the commit is given up"
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        acks = []
        for one in sealed:
            while True:
                try:
                    acks.append(await bus.journal.publish(one))
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
    assert len(await stored(place, "WEBHOOKS")) == 200
    assert len({ack.sequence for ack in acks}) == 200


async def test_an_append_whose_ack_was_lost_succeeds_when_said_again(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        run = new_id()
        first = await bus.publish(bus.seal(requested(run), org="default"))
        claim = bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default")
        async with paused(place.broker_pid):
            with pytest.raises(Unavailable):
                await bus.append(claim, first)
        while True:
            try:
                sequence = await bus.append(claim, first)
                break
            except Unavailable:
                await asyncio.sleep(0.1)
    found = await stored(place, "RUNS")
    assert found[claim.envelope.id] == sequence
    assert len(found) == 2


async def test_a_message_that_the_broker_would_not_take_is_refused_alone(place: Place) -> None:
    async with bus_of(place, "gateway") as bus:
        large = bus.seal(msgspec.structs.replace(received(), body_base64="x" * 3_000_000), org="default")
        sealed = [bus.seal(received(), org="default") for _ in range(10)]
        outcomes = await asyncio.gather(*(bus.journal.publish(one) for one in [*sealed, large]), return_exceptions=True)
        assert isinstance(outcomes[-1], Refused)
        assert not any(isinstance(outcome, BaseException) for outcome in outcomes[:-1])
