"""What a run's messages add up to, whichever of those that may write to it comes first, and however often they are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.runs import decide, run_state
from services.executor.runs.decide import MOST_LOST
from services.executor.runs.run_state import SHOWN_ATTEMPTS, RecordedCall, RunState, StepId
from shared.envelope import Envelope, new_id, rfc3339, seal
from shared.messages import (
    ConcurrencySlot,
    Message,
    Resolved,
    RunCancelled,
    RunCancelRequested,
    RunCrashed,
    RunError,
    RunEventMatched,
    RunExpired,
    RunFailed,
    RunRequested,
    RunResumed,
    RunSignalled,
    RunStarted,
    RunStepCompleted,
    RunSucceeded,
    RunTimedOut,
    RunUsage,
    RunWaiting,
    Wait,
)
from shared.messages.catalog import Policy
from shared.runs import ENDED
from shared.values import YEAR

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SPENT: dict[str, Any] = {"duration_ms": 1.0, "usage": RunUsage()}
ERROR = RunError("E", "e")
SLOT = ConcurrencySlot("a/b")
# Each number picks one of those things that may happen next. Long stories as often as short ones: left to itself a list is short.
CHOICES = st.integers(0, 80).flatmap(lambda length: st.lists(st.integers(0, 10_000), min_size=length, max_size=length))


class Story:
    """One run through everything that its writers may append to it; `told` holds (envelope, message, sequence)."""

    def __init__(self, choices: list[int]) -> None:
        self.told: list[tuple[Envelope, Message, int]] = []
        self.state: RunState | None = None
        self.steps: dict[StepId, RecordedCall] = {}
        self.now = BEGAN
        self.is_to_stop = False
        self.claims = self.failures = self.lost = self.ends = 0
        self.given: dict[str, list[Any]] = defaultdict(list)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self._sequence = 0
        self._choices = choices

    def happens(self) -> None:
        first, second, *rest = [*self._choices, 0, 0]
        run_at = rfc3339(BEGAN + timedelta(seconds=5)) if first % 3 == 0 else None
        deadline = 10.0 if second % 3 == 0 else None
        asked = RunRequested(run="r", workflow="w", version="v", requested_by="x", timeout=1.0, run_at=run_at, deadline=deadline)
        self.say(asked)
        for choice in rest:
            self.now += timedelta(seconds=choice % 7)
            possible = self.possible()
            possible[choice % len(possible)]()
            self.check()

    @property
    def run(self) -> RunState:
        assert self.state is not None
        return self.state

    def say(self, message: Message) -> None:
        self._sequence += 1
        sealed = seal(message, service="executor", org="default", now=self.now, id=new_id())
        self.told.append((sealed.envelope, message, self._sequence))
        self.steps.update(run_state.recorded(message))
        self.state = run_state.evolve(self.state, sealed.envelope, message, self._sequence)

    # -- who may write ----------------------------------------------------------------------------------------------------------

    def possible(self) -> list[Callable[[], None]]:
        if self.run.ended:
            return [self.is_offered]
        anybody = [self.is_offered, self.is_looked_at, self.is_signalled, self.is_asked_to_stop]
        return anybody + ([self.does_a_step, self.waits, self.fails, self.is_given_back, self.ends_well] if self.run.held else [])

    def is_offered(self) -> None:
        """A worker gets its message, for the first time or again."""
        match decide.on_dispatch(self.run, self.run.work_seq, self.now):
            case "claim":
                assert not self.run.ended
                assert self.run.held or self.run.status == "queued"
                if not self.run.held and len(self.told) % 5 == 0:
                    self.is_parked()
                    return
                self.lost = self.lost + 1 if self.run.held else self.lost
                assert self.lost < MOST_LOST
                self.claims += 1
                self.say(RunStarted(run="r", attempt=self.run.attempt + 1, executor="e", tier="none", slot=SLOT))
            case "cancel":
                assert self.run.status == "cancelling"
                self.end(RunCancelled(run="r", attempt=self.run.attempt))
            case "expire":
                assert not self.claims
                self.end(RunExpired(run="r", error=ERROR))
            case "poison":
                assert self.lost == MOST_LOST - 1
                self.end(RunCrashed(run="r", attempt=self.run.attempt, reason="poison", error=ERROR, **SPENT))
            case "delay":
                self.say(RunWaiting(run="r", attempt=0, blocked_on="time", until=self.run.run_at))
                assert self.run.status == "delayed"

    def is_parked(self) -> None:
        """Its organization has its share of the workers."""
        waited = self.run.waits
        until = rfc3339(self.now + timedelta(seconds=1))
        self.say(RunWaiting(run="r", attempt=self.run.attempt, blocked_on="worker", until=until))
        assert (self.run.status, self.run.blocked_on, self.run.waits) == ("waiting", "worker", waited)
        assert decide.on_dispatch(self.run, self.run.work_seq, self.now) == "nothing"

    def is_looked_at(self) -> None:
        """The follower, or the search, considers it."""
        if self.run.held:
            return
        if self.run.status == "cancelling":
            self.end(RunCancelled(run="r", attempt=self.run.attempt))
            return
        waited = list(self.run.waits)
        over = decide.resumption(self.run, self.steps, {"child": {"status": "succeeded", "result": 1}}, self.now)
        if over is None:
            return
        assert self.run.status in {"waiting", "delayed"}
        self.hear(over)
        self.say(RunResumed(run="r", priority="normal", resolved=over))
        self.lost = 0
        done = {(one.kind, one.name, one.ordinal) for one in over}
        assert self.run.waits == [wait for wait in waited if (wait.kind, wait.name, wait.ordinal) not in done]

    def is_signalled(self) -> None:
        name = "ab"[len(self.told) % 2]
        self.given[name].append(len(self.told))
        self.say(RunSignalled(run="r", name=name, signalled_by="x", data=len(self.told)))

    def is_asked_to_stop(self) -> None:
        if len(self.told) % 4 == 0:  # now and then only: it ends most stories
            self.say(RunCancelRequested(run="r", requested_by="x"))
            self.is_to_stop = True

    def does_a_step(self) -> None:
        """A step, or a wait for a signal that is there already."""
        signal = next(iter(self.run.signals), None)
        attempt, ordinal = self.run.attempt, len(self.told)
        if signal is None or ordinal % 2:
            self.say(RunStepCompleted(run="r", attempt=attempt, name="s", ordinal=ordinal, result=1))
            return
        self.heard[signal.name].append(signal.data)
        told = {"data": signal.data, "by": signal.by, "at": signal.at}
        self.say(RunStepCompleted(run="r", attempt=attempt, name=signal.name, ordinal=ordinal, result=told, kind="signal"))

    def waits(self) -> None:
        ordinal = len(self.told)
        known = {(wait.kind, wait.name, wait.ordinal): wait for wait in self.run.waits}
        due = rfc3339(self.now + timedelta(seconds=ordinal % 9))
        wanted = [
            Wait(kind="signal", name="ab"[ordinal % 2], ordinal=ordinal, position=0),
            Wait(kind="sleep", name="sleep", ordinal=ordinal, position=1, until=due),
            Wait(kind="run", name="child" if ordinal % 3 else "another", ordinal=ordinal, position=2),
        ][: 1 + ordinal % 3]
        # What an earlier attempt began to wait for is waited for still, as it was.
        waits = [*known.values(), *wanted]
        blocked_on, until = decide.waiting(waits)
        self.say(RunWaiting(run="r", attempt=self.run.attempt, blocked_on=blocked_on, until=until, waits=waits))
        assert {(wait.kind, wait.name, wait.ordinal): wait for wait in self.run.waits}.items() >= known.items()
        self.lost = 0

    def fails(self) -> None:
        until = rfc3339(self.now + timedelta(seconds=1))
        waited = self.run.waits
        self.say(RunWaiting(run="r", attempt=self.run.attempt, blocked_on="retry", until=until, reason="error", error=ERROR))
        assert self.run.waits == waited
        self.failures += 1
        self.lost = 0

    def is_given_back(self) -> None:
        waited = self.run.waits
        self.say(RunResumed(run="r", priority="normal"))
        assert self.run.waits == waited
        self.lost = 0

    def ends_well(self) -> None:
        common: dict[str, Any] = {"run": "r", "attempt": self.run.attempt, **SPENT}
        endings: list[Message] = [
            RunSucceeded(**common, result=1),
            RunFailed(**common, reason="error", error=ERROR),
            RunTimedOut(**common, reason="timeout", error=ERROR),
            RunCrashed(**common, reason="sandbox", error=ERROR),
        ]
        if self.run.status == "cancelling":
            endings = [RunCancelled(**common)]
        if len(self.told) % 3 == 0:
            self.end(endings[len(self.told) % len(endings)])

    def end(self, message: Message) -> None:
        self.ends += 1
        self.say(message)
        assert self.run.ended

    def hear(self, over: list[Resolved]) -> None:
        for one in over:
            if one.kind == "signal" and not one.timed_out:
                self.heard[one.name].append(one.result["data"])

    # -- what holds at any time -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        run = self.run
        assert run.last_seq == self._sequence
        assert self.ends == int(run.ended) <= 1
        assert (run.attempt, run.failures) == (self.claims, self.failures)
        assert len(run.attempts) == min(self.claims, SHOWN_ATTEMPTS)
        assert run.ended or run.lost == self.lost
        if run.ended:
            assert run.status in ENDED
            assert (run.held, run.waits, run.blocked_on, run.until) == (False, [], None, None)
            assert run.status != "succeeded" or not run.signals
            assert run.finished_at is not None
        else:
            assert self.is_to_stop <= (run.status == "cancelling")
            # Held, or to be dispatched, or waiting for something: never nobody's.
            assert run.held or run.status in {"queued", "waiting", "delayed", "cancelling"}
            assert run.held or (run.status in {"waiting", "delayed"}) <= (run.blocked_on is not None)
            assert not (run.held and run.status in {"queued", "waiting", "delayed"})
            for name, given in self.given.items():
                heard = self.heard[name]
                # Each once, in the order in which they were given, and those that are left behind them.
                assert heard + [signal.data for signal in run.signals if signal.name == name] == given
        for work_seq in range(run.last_seq + 2):
            if run.ended or (not run.held and run.status in {"waiting", "delayed"}):
                assert decide.on_dispatch(run, work_seq, self.now) == "nothing"


@given(CHOICES)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_in_whatever_order_a_run_ends_once_and_is_never_nobody_s(choices: list[int]) -> None:
    Story(choices).happens()


@given(CHOICES, st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_messages_that_are_read_again_change_nothing(choices: list[int], first: int, second: int) -> None:
    story = Story(choices)
    story.happens()
    told = story.told
    state: RunState | None = None
    upto = first % (len(told) + 1)
    for envelope, message, sequence in told[:upto]:
        state = run_state.evolve(state, envelope, message, sequence)
    again = state
    for envelope, message, sequence in told[second % (upto + 1) : upto]:
        again = run_state.evolve(again, envelope, message, sequence)
    assert again == state
    # A row is kept as JSON, and gone on with from there.
    kept = None if state is None else msgspec.json.decode(msgspec.json.encode(state), type=RunState)
    for envelope, message, sequence in told[upto:]:
        kept = run_state.evolve(kept, envelope, message, sequence)
    assert kept == story.state


@given(CHOICES)
@settings(max_examples=100, deadline=None)
def test_what_comes_after_the_end_moves_the_sequence_only(choices: list[int]) -> None:
    story = Story(choices)
    story.happens()
    story.say(RunCancelled(run="r", attempt=0)) if not story.run.ended else None
    ended = story.run
    story.say(RunStarted(run="r", attempt=ended.attempt + 1, executor="e", tier="none"))
    assert story.run == msgspec.structs.replace(ended, last_seq=ended.last_seq + 1)


@pytest.mark.parametrize("while_it_waits", [True, False])
def test_an_event_answers_one_wait_and_is_heard_once(while_it_waits: bool) -> None:
    story = Story([])
    one, two = [Wait(kind="event", name="paid from shop", ordinal=ordinal, position=ordinal) for ordinal in (0, 1)]
    event = {"id": "e", "data": 7}
    matched = RunEventMatched(run="r", name=one.name, ordinal=0, position=0, event="e", delivery="d", number=0, result=event)
    story.say(RunRequested(run="r", workflow="w", version="v", requested_by="x", timeout=1.0))
    story.say(RunStarted(run="r", attempt=1, executor="e", tier="none"))
    story.say(RunWaiting(run="r", attempt=1, blocked_on="event", waits=[one, two]))
    assert decide.resumption(story.run, {}, {}, BEGAN) is None
    if while_it_waits:
        story.say(matched)
        over = decide.resumption(story.run, {}, {}, BEGAN)
        assert over == [Resolved(kind="event", name=one.name, ordinal=0, position=0, result=event)]
        story.say(RunResumed(run="r", priority="normal", resolved=over))
    else:
        story.say(RunStarted(run="r", attempt=2, executor="e", tier="none"))
        story.say(matched)
        assert decide.matched_for(story.run, one) is not None
        story.say(RunStepCompleted(run="r", attempt=2, name=one.name, ordinal=0, position=0, result=event, kind="event"))
    assert (story.run.waits, story.run.matched, story.run.events_taken) == ([two], [], ["e"])
    story.say(msgspec.structs.replace(matched, ordinal=1, position=1, event="f"))
    story.say(RunCancelled(run="r", attempt=story.run.attempt))
    # Whoever resumes it begins with that.
    assert [(one.ordinal, one.event) for one in story.run.matched] == [(1, "f")]


def test_messages_of_a_run_that_was_never_requested_make_no_state() -> None:
    story = Story([])
    story.say(RunCancelRequested(run="r", requested_by="x"))
    assert story.state is None


@pytest.mark.parametrize("text", ["garbage", "", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize("seconds", [1e300, -1e300, 1e15])
def test_no_time_and_no_duration_of_a_message_is_more_than_can_be_reckoned_with(text: str, seconds: float) -> None:
    now = BEGAN

    def said(state: RunState | None, message: Message, sequence: int) -> RunState:
        envelope = seal(message, service="executor", org="o", now=now).envelope
        after = run_state.evolve(state, envelope, message, sequence)
        assert after is not None
        return after

    asked = RunRequested(
        run="r", workflow="w", version="v", requested_by="t", timeout=seconds, run_at=text, deadline=seconds, concurrency_key="\0"
    )
    state = said(None, asked, 1)
    assert (state.run_at, state.concurrency_key) == (None, "\ufffd")
    assert 0 <= state.timeout <= YEAR
    assert decide.on_dispatch(state, 1, now) in {"claim", "expire"}
    wait = Wait(kind="sleep", name="s", ordinal=0, position=0, until=text)
    held = said(state, RunStarted(run="r", attempt=1, executor="e", tier="A", slot=ConcurrencySlot("\0", 10**30)), 2)
    assert held.slot == ConcurrencySlot("\ufffd", run_state.MOST_AT_A_TIME)
    waiting = said(held, RunWaiting(run="r", attempt=1, blocked_on="time", until=text, waits=[wait]), 3)
    assert decide.waiting(waiting.waits) == ("time", rfc3339(now))
    assert decide.resumption(waiting, {}, {}, now)
    assert run_state.queue_ms(waiting) == 0.0
    policy = Policy(retry_delay=seconds, retry_max_delay=abs(seconds))
    pause = decide.pause_before_retry(policy, 10**30, 10**6, "error", 1.0)
    assert pause is not None
    assert 0 <= pause <= YEAR
