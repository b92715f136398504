"""The verdict on stories: what is wrong is found, each kind by its own fact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.report import HEADS, RUNS, STORIES, WEBHOOKS, written
from tests.chaos.stories.sending import KINDS, Made, order, webhooks
from tests.chaos.stories.verdict import BusFacts, Story, findings


def facts() -> tuple[list[Made], BusFacts, dict[str, Story]]:
    """Return four webhooks, one of each kind, with which nothing is wrong."""
    made = [Made(source=0, kind=kind, sender_delivery=kind, sendings=2, answered=[kind, kind]) for kind in KINDS]
    bus = BusFacts(
        webhooks=dict.fromkeys(KINDS, 1),
        outcomes={kind: [outcome] for kind, outcome in KINDS.items()},
        runs={"run": {"r"}},
        ends={"r": ["succeeded"]},
    )
    stories = {
        kind: Story(status=outcome, ended=True, overdue=False, runs=("succeeded",) if kind == "run" else ())
        for kind, outcome in KINDS.items()
    }
    return made, bus, stories


def test_nothing_is_wrong_with_one_story_each() -> None:
    assert findings(*facts()) == []


Spoil = Callable[[list[Made], BusFacts, dict[str, Story]], object]
SPOILT: list[tuple[str, Spoil]] = [
    ("lost", lambda _made, bus, _stories: bus.webhooks.pop("ignored")),
    ("lost", lambda _made, _bus, stories: stories.pop("ignored")),
    ("duplicated", lambda made, _bus, _stories: made[0].answered.append("another")),
    ("duplicated", lambda _made, bus, _stories: bus.webhooks.update(ignored=2)),
    ("duplicated", lambda _made, bus, _stories: bus.outcomes["ignored"].append("filtered")),
    ("duplicated", lambda _made, bus, _stories: bus.runs.update(ignored={"r"})),
    ("duplicated", lambda _made, bus, _stories: bus.ends["r"].append("succeeded")),
    ("duplicated", lambda _made, _bus, stories: stories.update(stray=stories["lost"])),
    ("unended", lambda _made, bus, _stories: bus.outcomes.pop("lost")),
    ("unended", lambda _made, bus, _stories: bus.ends.pop("r")),
    ("unended", lambda _made, _bus, stories: stories.update(lost=Story(status="unroutable", ended=True, overdue=True, runs=()))),
    ("unended", lambda _made, _bus, stories: stories.update(lost=Story(status="unroutable", ended=False, overdue=False, runs=()))),
    ("wrong", lambda _made, bus, _stories: bus.outcomes.update(ignored=["unroutable"])),
    ("wrong", lambda _made, bus, _stories: bus.runs.pop("run")),
    ("wrong", lambda _made, bus, _stories: bus.ends.update(r=["failed"])),
    ("disagrees", lambda _made, _bus, stories: stories.update(lost=Story(status="routed", ended=True, overdue=False, runs=()))),
]


@pytest.mark.parametrize(("kind", "spoil"), SPOILT)
def test_what_is_wrong_is_found(kind: str, spoil: Spoil) -> None:
    made, bus, stories = facts()
    spoil(made, bus, stories)
    assert kind in {one.kind for one in findings(made, bus, stories)}


def test_webhooks_are_of_every_kind_and_sent_out_of_order_some_of_them_again() -> None:
    made = webhooks(1000, 20, 7)
    assert {one.kind for one in made} == set(KINDS)
    assert len({one.source for one in made}) == 20
    sent = [one.sender_delivery for one in order(made, 7)]
    assert set(sent) == {one.sender_delivery for one in made}
    assert 1100 < len(sent) < 1500
    assert sent[:1000] != [one.sender_delivery for one in made]
    assert sent == [one.sender_delivery for one in order(made, 7)]


def test_each_part_of_the_page_is_written_without_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for part in (STORIES, WEBHOOKS, RUNS):
        written(part, f"{HEADS[part]}\nof {part}", page)
    written(RUNS, f"{HEADS[RUNS]}\nagain", page)
    assert page.read_text() == "\n\n".join([f"{HEADS[0]}\nof 0", f"{HEADS[1]}\nagain", f"{HEADS[2]}\nof 2"]) + "\n"
