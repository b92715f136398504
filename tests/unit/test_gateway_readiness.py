"""What `/readyz` makes of what the gateway, the other services and their supervisor say."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.gateway.backlog import Bounds, WebhookBacklog
from services.gateway.readiness import Readiness
from shared.durables import WorkBacklog
from shared.health import Health

EARLY, LATE = "2026-11-28T10:00:00Z", "2026-11-28T11:00:00Z"
WELL: dict[str, dict[str, Any] | None] = {
    name: {"service": name, "ready": True, "parts": {}} for name in ("events", "executor", "oauth", "logs")
}

# None: not looked through yet.
ROWS = {"events": 3, "oauth": None, "logs": 0}


def process(**more: Any) -> dict[str, Any]:
    return {"pid": 7, "failures": 0, "restarts": 0, "last_exit": None, "since": EARLY} | more


@pytest.fixture
def health() -> Health:
    health = Health("gateway")
    health.started = True
    health.report("broker", None)
    return health


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def backlog(messages: int = 0, age: float = 0.0) -> WebhookBacklog:
    made, now = WebhookBacklog(Bounds(messages=100, bytes=100_000, seconds=60.0)), datetime.now(UTC)
    waits = WorkBacklog(undelivered=messages, in_work=0, since=now - timedelta(seconds=age) if messages else None)
    made.counted({"events-parse": waits}, made.begin_count(), now)
    return made


def told(health: Health, file: Path, services: dict[str, dict[str, Any] | None], **processes: Any) -> dict[str, Any]:
    failing = [name for name, one in processes.items() if one["failures"] >= 3]
    file.write_text(json.dumps({"processes": processes, "failing": failing}))
    return Readiness(health, file, backlog()).document(services)


def test_when_all_are_well_it_is_ready(health: Health, file: Path) -> None:
    document = told(health, file, WELL, events=process(), nats=process())
    assert (document["ready"], document["status"], document["unserved"], document["degraded"]) == (True, "ready", {}, [])
    assert document["accepting"].webhooks


def test_one_that_answers_and_is_not_well_is_degraded_and_no_more(health: Health, file: Path) -> None:
    document = told(health, file, WELL | {"logs": {"service": "logs", "ready": False, "parts": {}}})
    assert (document["ready"], document["status"], document["unserved"], document["degraded"]) == (True, "degraded", {}, ["logs"])


@pytest.mark.parametrize("service", WELL)
def test_one_that_is_down_is_unserved_since_its_end(health: Health, file: Path, service: str) -> None:
    ended = {"code": -9, "at": LATE, "hung": False}
    document = told(health, file, WELL | {service: None}, **{service: process(pid=None, since=LATE, last_exit=ended)})
    assert (document["ready"], document["status"], document["degraded"]) == (False, "unready", [])
    (unserved,) = document["unserved"].items()
    assert (unserved[0], unserved[1].how, unserved[1].since, unserved[1].last_exit.code) == (service, "down", LATE, -9)
    assert unserved[1].effect


def test_one_that_its_supervisor_asked_in_vain_hangs_since_then(health: Health, file: Path) -> None:
    document = told(health, file, WELL | {"events": None}, events=process(silent_since=LATE))
    assert (document["unserved"]["events"].how, document["unserved"]["events"].since) == ("hung", LATE)


def test_one_that_dies_again_and_again_is_failing_also_while_it_answers(health: Health, file: Path) -> None:
    dies = process(failures=3, failing_since=EARLY, since=LATE, last_exit={"code": 1, "at": LATE})
    document = told(health, file, WELL, events=dies)
    assert not document["ready"]
    assert (document["unserved"]["events"].how, document["unserved"]["events"].since) == ("failing", EARLY)
    assert document["failing"]["events"].last_exit.code == 1


def test_one_that_is_silent_without_a_supervisor_is_so_since_it_was_first_seen_to_be(health: Health) -> None:
    readiness = Readiness(health, None, backlog())
    first = readiness.document(WELL | {"oauth": None})["unserved"]["oauth"]
    assert first.how == "silent"
    assert readiness.document(WELL | {"oauth": None})["unserved"]["oauth"].since == first.since
    assert readiness.document(WELL)["ready"]
    assert readiness.document(WELL | {"oauth": None})["unserved"]["oauth"].since > first.since


def test_a_store_that_is_down_serves_nobody(health: Health, file: Path) -> None:
    document = told(health, file, WELL, postgres=process(pid=None, since=LATE))
    assert (document["ready"], list(document["unserved"])) == (False, ["postgres"])


def test_webhooks_are_refused_only_for_the_gateways_and_the_brokers_sake(health: Health, file: Path) -> None:
    assert told(health, file, dict.fromkeys(WELL))["accepting"].webhooks
    health.report("broker", "not connected")
    document = told(health, file, WELL)
    assert (document["accepting"].webhooks, document["accepting"].reason) == (False, "broker: not connected")
    assert document["parts"]["broker"]["since"].endswith("Z")
    health.report("broker", None)
    assert told(health, file, WELL)["parts"]["broker"]["since"] is None
    health.started = False
    assert not told(health, file, WELL)["accepting"].webhooks


@pytest.mark.parametrize("store", ["nats", "postgres"])
def test_a_store_that_stands_still_serves_nobody_since_its_supervisor_knows(health: Health, file: Path, store: str) -> None:
    document = told(health, file, WELL, **{store: process(silent_since=LATE)})
    assert (document["ready"], list(document["unserved"])) == (False, [store])
    assert (document["unserved"][store].how, document["unserved"][store].since) == ("hung", LATE)


def test_a_broker_that_does_not_answer_now_takes_no_webhook(health: Health) -> None:
    document = Readiness(health, None, backlog()).document(WELL, broker_answers=False)
    assert (document["ready"], document["unserved"]["nats"].how) == (False, "silent")
    assert (document["accepting"].webhooks, document["accepting"].reason) == (False, "broker: does not answer")


@pytest.mark.parametrize("content", ["", "{", '{"processes": {"events": {"pid": "x"}}, "failing": []}'])
def test_a_supervisor_of_another_version_is_passed_over(health: Health, file: Path, content: str) -> None:
    file.write_text(content)
    assert Readiness(health, file, backlog()).document(WELL)["ready"]


@pytest.mark.parametrize(
    ("messages", "age", "status", "accepting"),
    [(79, 0.0, "ready", True), (80, 0.0, "degraded", True), (1, 50.0, "degraded", True), (100, 0.0, "degraded", False)],
)
def test_a_backlog_near_its_bounds_is_degraded_and_never_unready(
    health: Health, messages: int, age: float, status: str, accepting: bool
) -> None:
    document = Readiness(health, None, backlog(messages, age)).document(WELL)
    assert (document["ready"], document["status"], document["accepting"].webhooks) == (True, status, accepting)
    assert document["degraded"] == (["backlog"] if status == "degraded" else [])
    assert accepting or "100 of 100 messages wait" in document["accepting"].reason


def test_rows_that_do_not_open_are_named_and_stop_nobody_else(health: Health, file: Path) -> None:
    said = {name: {"service": name, "ready": True, "parts": {}, "quarantined": {"rows": rows}} for name, rows in ROWS.items()}
    document = told(health, file, WELL | said)
    assert (document["ready"], document["status"], document["degraded"]) == (True, "degraded", ["quarantined"])
    assert document["quarantined"] == {"events": 3}
