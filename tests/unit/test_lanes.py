"""Lanes: a source that sends much moves aside, and comes back once nothing of it is left there."""

from __future__ import annotations

from services.gateway.lanes import FEW, FEW_OF_ORG, PROMPT_FOR, SMOOTHED, Lanes
from shared.durables import WorkBacklog
from shared.streams import BULK_LANES

STAGES = ("events-parse", "events-route")


class Broker:
    """The stream and what is delivered of it."""

    def __init__(self) -> None:
        self.lanes = Lanes(most_queued=10)
        self.sequence = 0
        self.stored: list[tuple[int, str | None]] = []
        self.delivered = 0
        self.unrouted: dict[str | None, int] = {}

    def send(self, source: str, count: int = 1, *, fails: bool = False, org: str | None = None) -> list[str | None]:
        """Admit webhooks; returns their lanes."""
        chosen = []
        for _ in range(count):
            with self.lanes.entered(source, org or source) as entry:
                chosen.append(entry.lane)
                if not fails:
                    self.sequence += 1
                    entry.sequence = self.sequence
                    self.stored.append((self.sequence, entry.lane))
        return chosen

    def count(self, pace: float = 0.0, queued: int = 0) -> None:
        found = {}
        for lane in (None, *BULK_LANES):
            suffix = "" if lane is None else f"-{lane}"
            left = [sequence for sequence, its in self.stored if its == lane and sequence > self.delivered]
            done = [sequence for sequence, its in self.stored if its == lane and sequence <= self.delivered]
            last = max(done, default=0)
            found[f"events-parse{suffix}"] = WorkBacklog(undelivered=len(left), in_work=0, since=None, delivered=last)
            routed = self.unrouted.get(lane, 0)
            found[f"events-route{suffix}"] = WorkBacklog(undelivered=routed, in_work=0, since=None)
        self.lanes.counted(found, pace, queued)

    def deliver(self, sequence: int | None = None) -> None:
        self.delivered = self.sequence if sequence is None else sequence


def test_a_flood_moves_to_one_bulk_lane_and_a_trickle_stays() -> None:
    broker = Broker()
    chosen = broker.send("flood", 1000)
    assert chosen[:FEW] == [None] * FEW
    assert len(set(chosen[FEW:])) == 1
    assert chosen[-1] in BULK_LANES
    assert broker.send("trickle", 5) == [None] * 5


def test_floods_of_several_sources_have_a_lane_each() -> None:
    broker = Broker()
    lanes = {broker.send(f"flood-{number}", FEW + 10)[-1] for number in range(len(BULK_LANES))}
    assert lanes == set(BULK_LANES)
    broker.count()
    # The next joins the one with the least.
    broker.send("flood-0", 100)
    broker.send("flood-2", 100)
    assert broker.send("flood-3", FEW + 1)[-1] == broker.send("flood-1")[-1]


def test_the_floods_of_one_organization_leave_a_lane_to_others() -> None:
    broker = Broker()
    lanes = [broker.send(f"flood-{number}", FEW_OF_ORG + 10 * number, org="many")[-1] for number in range(1, 9)]
    assert len(set(lanes)) == len(BULK_LANES) - 1
    assert broker.send("burst", FEW + 1)[-1] not in lanes
    broker.deliver()
    broker.count()
    broker.count()
    again = [broker.send(f"flood-{number}", FEW_OF_ORG + 10 * number, org="many")[-1] for number in range(9, 12)]
    assert len(set(again)) == len(BULK_LANES) - 1


def test_a_source_comes_back_when_nothing_of_it_is_left() -> None:
    broker = Broker()
    bulk = broker.send("flood", FEW + 2)[-1]
    broker.deliver(FEW + 1)
    broker.count()
    assert broker.send("flood") == [bulk]
    broker.deliver()
    broker.unrouted = {bulk: 1}
    broker.count()
    assert broker.send("flood") == [bulk]
    broker.deliver()
    broker.unrouted = {}
    broker.count()
    assert broker.send("flood") == [None]


def test_a_heavier_source_has_more_of_the_prompt_lane() -> None:
    lanes = Broker().lanes
    chosen = []
    for _ in range(4 * FEW):
        with lanes.entered("heavy", "heavy", 3) as entry:
            chosen.append(entry.lane)
            entry.sequence = len(chosen)
    assert chosen.count(None) == 3 * FEW


def test_an_organization_fills_no_more_of_the_prompt_lane_by_many_sources() -> None:
    broker = Broker()
    chosen = [lane for number in range(1000) for lane in broker.send(f"source-{number}", FEW // 4, org="many")]
    assert chosen.count(None) == FEW_OF_ORG
    assert broker.send("another", FEW) == [None] * FEW
    broker.count()
    broker.deliver()
    broker.count()
    assert broker.send("source-0", FEW, org="many") == [None] * FEW


def test_one_on_its_way_keeps_its_source_in_the_lane() -> None:
    broker = Broker()
    bulk = broker.send("flood", FEW + 1)[-1]
    broker.deliver()
    with broker.lanes.entered("flood", "flood") as entry:
        broker.count()
        assert entry.lane == bulk
        assert broker.send("flood") == [bulk]


def test_what_was_delivered_makes_room_in_the_prompt_lane() -> None:
    broker = Broker()
    assert broker.send("source", FEW - 1) == [None] * (FEW - 1)
    broker.count()
    broker.deliver()
    broker.count()
    assert broker.send("source", FEW) == [None] * FEW


def test_what_failed_to_be_stored_holds_nothing() -> None:
    broker = Broker()
    assert broker.send("source", 10 * FEW, fails=True) == [None] * (10 * FEW)
    bulk = broker.send("source", FEW + 1)[-1]
    assert broker.send("source", 3, fails=True) == [bulk] * 3
    broker.deliver()
    broker.count()
    assert broker.send("source") == [None]


def test_where_much_is_handled_a_second_bursts_stay_prompt_and_together_within_their_time() -> None:
    broker = Broker()
    for _ in range(50):
        broker.count(pace=4000.0)
    room = int(PROMPT_FOR * 4000.0)
    sent = [broker.send(source, 10 * room).count(None) for source in ("a", "b", "c")]
    assert sent[0] in range(room // 2 - 1, room // 2 + 2)
    assert sum(sent) <= room


def test_the_pace_follows_what_is_counted() -> None:
    broker = Broker()
    broker.count(pace=4000.0)
    # One count is not believed alone.
    assert broker.send("a", 1000).count(None) <= SMOOTHED * PROMPT_FOR * 4000.0 / 2 + 1


def test_while_too_many_runs_are_queued_each_source_has_a_few_more() -> None:
    broker = Broker()
    for _ in range(50):
        broker.count(pace=4000.0)
    broker.count(pace=4000.0, queued=10)
    sent: list[str | None] = []
    for _ in range(FEW + 8):
        sent += broker.send("source")
        broker.deliver()
        broker.count(pace=4000.0, queued=10)
    assert sent[:FEW] == [None] * FEW
    assert sent[-1] in BULK_LANES
    broker.count(queued=9)
    assert broker.send("source") == [None]
