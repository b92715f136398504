"""Questions to people: what their messages add up to, when people are reminded, and forms of them without a script."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest

from millrace._schema import form_schema
from services.executor.runs import asked, decide
from services.executor.runs.approvals import approval_id, check_open, checked_question, due_of
from services.executor.runs.asked import AskState
from services.executor.runs.run_state import RunState, evolve
from services.gateway import links
from services.gateway.api.pages import when
from services.gateway.form_fields import fields_of, filled, shown
from shared.encryption import Keyring
from shared.envelope import Envelope, rfc3339, seal
from shared.errors import Conflict, Invalid, TooLarge
from shared.messages import (
    AskedQuestion,
    Message,
    Resolved,
    RunAnswered,
    RunAsked,
    RunReminded,
    RunRequested,
    RunResumed,
    RunStepCompleted,
    RunSucceeded,
    RunUsage,
    RunWaiting,
    Wait,
)
from shared.schemas import checker_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ASKED = RunAsked(
    run="r",
    attempt=1,
    approval="r-1",
    name="ask",
    ordinal=0,
    question=AskedQuestion(prompt="Go?", remind=60.0, escalate=90.0, escalate_to=["boss"]),
    until=rfc3339(NOW + timedelta(seconds=200)),
)
ANSWERED = RunAnswered(
    run="r", approval="r-1", name="ask", ordinal=0, approved=True, answered_by="user:ada", via="session", data={}
)
WAIT = Wait(kind="ask", name="ask", ordinal=0, position=0, until=ASKED.until)


def after(*messages: Message) -> RunState:
    state: RunState | None = None
    first = RunRequested(run="r", workflow="w", version="v", requested_by="me", timeout=60.0)
    for sequence, message in enumerate((first, *messages), 1):
        envelope: Envelope = seal(message, service="executor", org="o", now=NOW, id=f"id-{sequence}").envelope
        state = evolve(state, envelope, message, sequence)
    assert state is not None
    return state


def the_one(*messages: Message) -> AskState:
    (found,) = after(*messages).asks
    return found


def test_a_question_has_one_answer_and_what_comes_later_changes_nothing() -> None:
    found = the_one(ASKED, ASKED, ANSWERED, msgspec.structs.replace(ANSWERED, approved=False, answered_by="user:eve"))
    assert (found.status, found.by, found.answer_id) == ("approved", "user:ada", "id-4")
    ended = RunSucceeded(run="r", attempt=1, result=None, duration_ms=1.0, usage=RunUsage())
    assert the_one(ASKED, ANSWERED, ended).status == "approved"
    assert the_one(ASKED, ended).status == "withdrawn"
    over = Resolved(kind="ask", name="ask", ordinal=0, position=0, timed_out=True)
    assert the_one(ASKED, RunResumed(run="r", priority="normal", resolved=[over]), ANSWERED).status == "timed_out"
    given_up = RunStepCompleted(run="r", attempt=1, kind="ask", name="ask", ordinal=0, result=None, given_up=True)
    assert the_one(ASKED, given_up, ANSWERED).status == "withdrawn"


def test_a_waiting_run_goes_on_with_the_answer_or_by_its_time() -> None:
    waiting = RunWaiting(run="r", attempt=1, blocked_on="answer", waits=[WAIT], until=WAIT.until)
    assert decide.resumption(after(ASKED, waiting), (), {}, NOW) is None
    (over,) = decide.resumption(after(ASKED, ANSWERED, waiting), (), {}, NOW) or []
    assert (over.result["approved"], over.result["by"], over.timed_out) == (True, "user:ada", False)
    # An answer that was in time counts, however late the look is.
    late = NOW + timedelta(seconds=300)
    assert decide.resumption(after(ASKED, waiting, ANSWERED), (), {}, late) == [over]
    (over,) = decide.resumption(after(ASKED, waiting), (), {}, late) or []
    assert over.timed_out


def test_an_answer_is_refused_that_comes_second_or_late() -> None:
    for state, at in ((after(ASKED, ANSWERED), NOW), (after(ASKED), NOW + timedelta(seconds=200))):
        with pytest.raises(Conflict):
            check_open(state, state.asks[0], at)
    check_open(after(ASKED), after(ASKED).asks[0], NOW)


def test_people_are_reminded_once_for_each_time_and_others_are_asked_once() -> None:
    def at(seconds: float, *told: Message) -> tuple[int, bool] | None:
        found = due_of(the_one(ASKED, *told), "r", NOW + timedelta(seconds=seconds))
        return None if found is None else (found.number, found.escalated)

    first = RunReminded(run="r", approval="r-1", prompt="Go?", to=[], number=1)
    escalated = msgspec.structs.replace(first, escalated=True)
    assert at(59) is None
    assert at(60) == (1, False)
    assert at(61, first) is None
    assert at(90, first) == (1, True)
    assert at(119, first, escalated) is None
    # Two that are late are one.
    assert at(185, escalated) == (3, False)
    assert at(200, first, escalated) is None
    assert at(100, ANSWERED) is None


def test_what_is_asked_is_bounded_and_its_form_a_schema() -> None:
    def question(**given: Any) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode({"prompt": "Go?"} | given))

    assert checked_question(question(to=["a"])).to == ["a"]
    for wrong in (
        {"prompt": ""},
        {"to": ["a\nb"]},
        {"remind": 0.1},
        {"form": {"type": "string"}},
        {"form": {"type": "object", "required": 1}},
    ):
        with pytest.raises(Invalid):
            checked_question(question(**wrong))
    with pytest.raises(TooLarge):
        checked_question(question(form={"type": "object", "description": "x" * 17_000}))
    assert approval_id("r" * 36, "x" * 200, 2**31) != approval_id("r" * 36, "x" * 200, 0)
    assert len(approval_id("r" * 36, "x", 0)) <= 64
    assert asked.erased(after(ASKED, ANSWERED).asks)[0].question.prompt == "erased"


@dataclass
class Address:
    city: str


@dataclass
class Form:
    """A form.

    Args:
        amount: In <euros>.
    """

    amount: int
    method: Literal["card", "bank", 3]
    address: Address
    urgent: bool = False
    share: float | None = None
    tags: list[str] = field(default_factory=list)


def test_a_form_is_filled_in_without_a_script() -> None:
    schema = form_schema(Form)
    fields = fields_of(schema)
    assert [one.name for one in fields] == ["f.amount", "f.method", "f.address.city", "f.urgent", "f.share", "f.tags"]
    assert [one.kind for one in fields] == ["number", "choice", "text", "flag", "number", "json"]
    sent = {"f.amount": " 12 ", "f.method": "2", "f.address.city": "Köln", "f.urgent": "1", "f.share": "", "f.tags": '["a"]'}
    data, problems = filled(fields, sent)
    assert (data, problems) == ({"amount": 12, "method": 3, "address": {"city": "Köln"}, "urgent": True, "tags": ["a"]}, [])
    checker = checker_of(msgspec.json.encode(schema), formats=True)
    assert checker.problems(data, "data") == []
    data, problems = filled(fields, {"f.amount": "a lot", "f.method": "9", "f.tags": "["})
    assert [one.path for one in problems] == ["data.address.city"]
    assert {"data.amount", "data.method", "data.tags"} <= {one.path for one in checker.problems(data, "data")}
    html = shown(fields, {"f.amount": '"><script>'}, {"data.amount": "<no>"})
    assert "<script>" not in html
    assert "<no>" not in html
    assert "In &lt;euros&gt;." in html
    assert 'aria-describedby="f.amount-help f.amount-wrong"' in html


def test_a_link_opens_as_it_was_made_and_by_no_other_keys() -> None:
    keyring, other = Keyring((b"a" * 32,)), Keyring((b"b" * 32,))
    token = links.sealed(keyring, org="o", approval="r-1", name="ada", until=7.0)
    assert token != links.sealed(keyring, org="o", approval="r-1", name="ada", until=7.0)
    found = links.opened(keyring, token)
    assert (found.org, found.approval, found.name, found.until) == ("o", "r-1", "ada", 7.0)
    assert "ada" not in repr(found)
    rotated = Keyring((b"b" * 32, b"a" * 32))
    assert links.opened(rotated, token) == found
    for keys, altered in (
        (other, token),
        (keyring, token[:-2]),
        (keyring, token + "A"),
        (keyring, ""),
        (keyring, keyring.seal("{}", "o")),
    ):
        with pytest.raises(links.UnknownLink):
            links.opened(keys, altered)


def test_people_read_times_as_people_write_them() -> None:
    for told in ("2026-11-03T20:14:38.267244Z", "2026-11-03T21:14:38+01:00"):
        assert when(told) == f'<time datetime="{told}">3 November 2026, 20:14 UTC</time>'
