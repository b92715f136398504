"""What `/metrics` answers, as Prometheus reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared.consumer import Letters
from shared.health import Health
from shared.metrics import exposition
from shared.salvage import Tally


def read(health: Health) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(exposition(health).decode())}


def values(metric: Metric) -> dict[Any, float]:
    return {sample.labels.get("of"): sample.value for sample in metric.samples}


def test_a_count_by_name_is_a_gauge_with_a_label() -> None:
    health = Health("events")
    health.state("projections", {"dead": {"runs": 2, 'a"b': 1}, "salvaged": {}, "last": {"runs": "KeyError at 7"}})
    health.state("pool", {"slots": 3})
    found = read(health)
    assert {sample.labels["service"] for sample in found["millrace_projections_dead"].samples} == {"events"}
    assert values(found["millrace_projections_dead"]) == {"runs": 2, 'a"b': 1}
    assert (values(found["millrace_pool_slots"]), found["millrace_pool_slots"].type) == ({None: 3}, "gauge")
    text = exposition(health).decode()
    assert "salvaged" not in text
    assert "KeyError" not in text


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
