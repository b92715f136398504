"""The fuzz itself: what it draws, where it puts it, and what it takes for harm."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from services.gateway.api.application import ENDPOINTS
from shared.messages import DECLARATIONS
from shared.questions import ASKED
from shared.resources import KINDS
from tests.fuzz import cases, report
from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import FAILED, REFUSED, STORED, Outcome, Wrong
from tests.fuzz.doors.http import Http, judged
from tests.fuzz.doors.questions import Questions
from tests.fuzz.doors.runs import Runs
from tests.fuzz.doors.streams import Streams
from tests.fuzz.fuzzing import DOORS, SHARES, Plan
from tests.fuzz.going import Count, Failure, Going
from tests.fuzz.hostile import Hostile, Literal
from tests.fuzz.shapes import Spot, example, placed, spots, without
from tests.fuzz.wire import Answer

TARGETS = (Target("a", (Spot(("x",), "text"), Spot(("y", 0), "number")), ("query:q",)), Target("b", (), ("path:p",), damaged=False))


class Known:
    """A place whose stack is not there."""

    known = {"topic": "t", "run": "r", "delivery": "d", "version": "v"}  # noqa: RUF012

    class keyring:  # noqa: N801
        @staticmethod
        def seal(*_parts: str) -> str:
            return "sealed"


@pytest.fixture
def place() -> Any:
    return Known()


def test_the_same_seed_and_number_are_the_same_cases() -> None:
    first, again = ([cases.lot("d", cases.strategy(TARGETS, frozenset()), 7, 3)] for _ in range(2))
    assert first == again
    assert cases.lot("d", cases.strategy(TARGETS, frozenset()), 8, 3) != first[0]
    assert len(first[0]) == cases.LOT


def test_every_spot_every_text_and_every_damage_has_its_turn() -> None:
    drawn = [case for number in range(2) for case in cases.lot("d", cases.strategy(TARGETS, frozenset()), 1, number)]
    assert {case.spot for case in drawn} == {None, *TARGETS[0].spots}
    assert {case.text for case in drawn} == {None, "query:q", "path:p"}
    assert {case.damage for case in drawn} >= {None, "missing", "empty-body", "gzip", "utf-16"}


def test_a_kind_that_is_left_out_is_not_drawn() -> None:
    drawn = cases.lot("d", cases.strategy(TARGETS, frozenset({"nul", "missing", "gzip"})), 1, 0)
    assert {"nul", "missing", "gzip"}.isdisjoint(case.kind for case in drawn)
    assert not any("\0" in str(case.value.value) for case in drawn if case.value and case.kind == "random")


def test_no_route_message_question_or_frame_is_passed_over(place: Any) -> None:
    assert len(Http(place).targets()) == len([one for one in ENDPOINTS if one.method != "*"])
    assert {target.name for target in Streams(place, Unused()).targets()} == set(DECLARATIONS)  # type: ignore[arg-type]
    assert {target.name.partition(" ")[0] for target in Questions(place, {}).targets()} == set(ASKED)
    assert len([target for target in Runs(place).targets() if target.name.startswith("frame ")]) > 15
    assert DOORS.keys() == SHARES.keys()


@pytest.mark.parametrize("type_", DECLARATIONS)
def test_an_example_of_a_message_is_one_and_every_field_of_it_a_spot(place: Any, type_: str) -> None:
    declared, cls = DECLARATIONS[type_]
    subject, envelope = Streams(place, Unused())._addressed(declared, 5)  # type: ignore[arg-type]
    message = msgspec.convert(envelope["data"], cls)
    assert declared.subject(message) == subject
    assert {f"data.{field}" for field in cls.__struct_fields__} <= {spot.name for spot in spots(envelope)}


def test_examples_fit_and_places_in_them_are_replaced_or_left_out() -> None:
    made = example(KINDS["subscription"].body, {})
    msgspec.convert(made, KINDS["subscription"].body)
    assert placed({"a": [{"b": 1}]}, ("a", 0, "b"), 2) == {"a": [{"b": 2}]}
    assert without({"a": [{"b": 1, "c": 2}]}, ("a", 0, "b")) == {"a": [{"c": 2}]}


def test_documents_hold_what_no_encoder_writes() -> None:
    assert encoded({"a": Literal("1e400"), "b": "\ud800\0", "c": [True, None, 1.5]}) == (
        b'{"a":1e400,"b":"\\ud800\\u0000","c":[true,null,1.5]}'
    )
    assert json.loads(DAMAGES["duplicate-keys"](b'{"a":1}')) == {"a": 1}
    assert all(isinstance(damage(b'{"a":"a"}'), bytes) for damage in DAMAGES.values())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"title": "a", "status": 500, "detail": "it failed"}),
        (422, {"title": "a", "status": 422, "detail": "it does not fit"}),
        (422, {"title": "a", "status": 422, "detail": "it does not fit", "errors": [{"path": "other", "message": "no"}]}),
        (400, {"title": "a", "status": 400, "detail": ""}),
        (400, None),
    ],
)
def test_what_nobody_may_be_answered_is_harm(status: int, body: Any) -> None:
    case = Case("a", spot=Spot(("settings", "secret"), "text"), value=Hostile("nul", "\0"))
    answer = Answer(status, {"content-type": "application/problem+json" if body else "text/plain"}, json.dumps(body).encode())
    with pytest.raises(Wrong):
        judged(case, answer)


@pytest.mark.parametrize("path", ["settings", "settings.secret", "settings.secret[0]"])
def test_a_refusal_that_names_the_field_or_what_is_around_it_is_none(path: str) -> None:
    case = Case("a", spot=Spot(("settings", "secret"), "text"), value=Hostile("nul", "\0"))
    body = {"title": "a", "status": 422, "detail": "no", "errors": [{"path": path, "message": "no"}]}
    assert judged(case, Answer(422, {"content-type": "application/problem+json"}, json.dumps(body).encode())).became == REFUSED
    assert judged(case, Answer(201, {}, b"")).became == STORED


async def test_harm_is_counted_and_told_with_its_number() -> None:
    going = Going(Fragile(), Unused(), Unused(), seed=1, without=frozenset())  # type: ignore[arg-type]
    for number, target in enumerate(["fine", "harm", "harm", "harm", "fine"]):
        await going._one(number, Case(target))
    assert going.count.became == Counter(values=5, stored=2, failed=3)
    assert [failure.number for failure in going.count.failures] == [1, 2]


@pytest.mark.parametrize("values", [1, 1_000, 200_000])
def test_a_plan_sends_each_number_of_each_door_once(values: int) -> None:
    plan = Plan(values=values, seed=1, doors=tuple(DOORS))
    sent: dict[str, list[int]] = {}
    for door, first, many in plan.batches():
        sent.setdefault(door, []).extend(range(first, first + many))
    assert sent.keys() == DOORS.keys()
    assert all(numbers == list(range(len(numbers))) for numbers in sent.values())
    assert sum(map(len, sent.values())) >= values * 0.95
    assert Plan(values=1, seed=1, doors=("http",), only=9).batches() == [("http", 9, 1)]


@pytest.mark.parametrize(
    ("harm", "restarts"), [("failed", {}), ("unanswered", {}), ("wrong", {}), ("stored", {"events": {"restarts": 1}})]
)
def test_any_harm_is_on_the_page_and_ends_with_another_code(harm: str, restarts: dict[str, Any]) -> None:
    count = Count(door="http", became=Counter({"values": 1, harm: 1}), failures=[Failure("http", 7, "a case", "500")])
    made = report.made([count], Silent(), restarts=restarts, errors={}, at=datetime(2026, 11, 1, tzinfo=UTC), seed=3, seconds=1)  # type: ignore[arg-type]
    assert not made.harmless
    assert '--door http --seed 3 --only 7"' in "\n".join(report.remarks(made))
    assert "| http | 1 |" in report.page(made)
    assert report.document(made)[harm] == 1


class Unused:
    def jetstream(self, **_options: Any) -> None:
        """Answer nothing that could be used."""


class Silent:
    seconds: list[float] = []  # noqa: RUF012
    silent: list[str] = []  # noqa: RUF012


class Fragile:
    name = "fragile"
    most = 1

    def targets(self) -> list[Target]:
        return []

    async def send(self, case: Case) -> Outcome:
        if case.target == "harm":
            raise Wrong("500", FAILED)
        return Outcome(STORED)

    async def settled(self) -> list[str]:
        return []
