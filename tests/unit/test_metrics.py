"""What `/metrics` answers, as Prometheus reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.executor.runs.metrics import WORKFLOWS, RunMetrics
from services.executor.runs.run_state import RunState
from services.gateway.api.measured import RequestDurations
from shared.consumer import Letters
from shared.envelope import rfc3339
from shared.health import Health
from shared.metrics import OTHER, Bounded, exposition
from shared.salvage import Tally

T0 = datetime(2026, 1, 2, tzinfo=UTC)


def read(health: Health) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(exposition(health).decode())}


def values(metric: Metric) -> dict[Any, float]:
    return {sample.labels.get("projection") or sample.labels.get("source"): sample.value for sample in metric.samples}


def test_a_count_by_name_is_a_gauge_with_the_label_that_its_fact_names() -> None:
    health = Health("events")
    fact = {"dead": {"runs": 2, 'a"b': 1}, "salvaged": {}, "last": {"runs": "KeyError at 7"}, "by_nothing": {"runs": 1}}
    health.state("projections", fact, labels={"dead": "projection", "salvaged": "projection"})
    health.state("pool", {"slots": 3})
    found = read(health)
    assert {sample.labels["service"] for sample in found["millrace_projections_dead"].samples} == {"events"}
    assert values(found["millrace_projections_dead"]) == {"runs": 2, 'a"b': 1}
    assert (values(found["millrace_pool_slots"]), found["millrace_pool_slots"].type) == ({None: 3}, "gauge")
    text = exposition(health).decode()
    # It is there before there is anything to count.
    assert (found["millrace_projections_salvaged"].type, found["millrace_projections_salvaged"].samples) == ("gauge", [])
    assert "KeyError" not in text
    assert "by_nothing" not in text


def test_a_unit_is_written_out() -> None:
    health = Health("events")
    health.state("floods", {"webhooks_per_s": 3, "held_s": 1.5, "problem": None})
    found = read(health)
    assert values(found["millrace_floods_webhooks_per_second"]) == {None: 3}
    assert values(found["millrace_floods_held_seconds"]) == {None: 1.5}
    assert "millrace_floods_problem" not in found


def test_a_label_that_users_choose_is_bounded() -> None:
    names = Bounded(2)
    assert [names.of(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_a_run_that_ends_counts_once_it_is_new_and_workflows_are_bounded() -> None:
    health = Health("executor")
    metrics = RunMetrics(health, T0)
    for number in range(WORKFLOWS + 3):
        metrics.ended(ended(f"w{number}"), T0)
    metrics.ended(ended("w0"), T0 - timedelta(seconds=1))  # replayed: its end is older than this process
    found = read(health)
    counts = {
        sample.labels["workflow"]: sample.value for sample in found["millrace_runs_ended"].samples if sample.name.endswith("_total")
    }
    assert (len(counts), counts["w0"], counts[OTHER]) == (WORKFLOWS + 1, 1, 3)
    sums = {
        sample.labels["workflow"]: sample.value
        for sample in found["millrace_run_duration_seconds"].samples
        if sample.name.endswith("_sum")
    }
    assert sums[OTHER] == 1.5
    [queue] = [sample.value for sample in found["millrace_run_queue_seconds"].samples if sample.name.endswith("_sum")]
    assert queue == 2.0 * (WORKFLOWS + 3)


async def test_requests_are_measured_by_the_template_of_their_route() -> None:
    health = Health("gateway")
    durations = RequestDurations(health)

    async def handler(request: web.Request) -> web.StreamResponse:
        if "gone" in request.path:
            raise ConnectionResetError
        return web.Response(status=201)

    measured = durations.of("/api/v1/files/{path:.+}", handler)
    for method in ("GET", "BREW", "BREW"):
        await measured(make_mocked_request(method, "/api/v1/files/secret"))
    with pytest.raises(ConnectionResetError):
        await measured(make_mocked_request("GET", "/api/v1/files/gone"))
    samples = [one for one in read(health)["http_server_request_duration_seconds"].samples if one.name.endswith("_count")]
    found = {tuple(sorted(one.labels.items())): one.value for one in samples}
    assert found == {
        labelled("GET", "2xx"): 1,
        labelled("_OTHER", "2xx"): 2,
        labelled("GET", ""): 1,
    }


def labelled(method: str, status: str) -> Any:
    route = ("http_route", "/api/v1/files/{path}")
    return (("http_request_method", method), ("http_response_status_class", status), route)


def ended(workflow: str) -> RunState:
    return RunState(
        id=workflow,
        org="default",
        workflow=workflow,
        version="1",
        status="failed",
        timeout=1,
        priority="normal",
        requested_by="x",
        requested_at=rfc3339(T0 - timedelta(seconds=3)),
        correlation_id="c",
        causation_id=None,
        last_seq=1,
        started_at=rfc3339(T0 - timedelta(seconds=1)),
        reason="error",
        duration_ms=500.0,
    )


def test_what_only_grows_is_a_counter() -> None:
    health = Health("events")
    letters, tally = Letters(health), Tally(health)
    letters.unreadable_of("github\n")
    tally.dead["runs"] += 3
    found = read(health)
    unreadable, dead = found["millrace_dead_letters_unreadable"], found["millrace_projections_dead"]
    assert (unreadable.type, values(unreadable)) == ("counter", {"github\n": 1})
    assert (dead.type, values(dead), dead.samples[0].name) == ("counter", {"runs": 3}, "millrace_projections_dead_total")


def test_each_part_says_whether_it_is_well() -> None:
    health = Health("events")
    health.started = True
    health.report("broker", None)
    health.report("projection runs", "stands still")
    parts = {
        (sample.labels["service"], sample.labels["part"]): sample.value for sample in read(health)["millrace_part_ready"].samples
    }
    assert parts == {("events", "broker"): 1, ("events", "projection runs"): 0}


def test_what_the_process_takes_is_said_under_the_usual_names() -> None:
    found = read(Health("events"))
    assert found["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert found["process_cpu_seconds"].type == "counter"
    assert {"process_open_fds", "process_start_time_seconds", "python_info", "python_gc_collections"} <= found.keys()
