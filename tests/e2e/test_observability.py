"""What the dashboard and the alert rules ask for is given out by a stack that works."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import promql_parser
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared.messages.log import SERVICES
from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.observability import expressions, selectors
from tests.support.stack import Up

FLOW = b"""
from millrace import workflow


@workflow(name="nap")
def nap() -> int:
    return 1
"""
# Prometheus itself makes the one, and gives the others to every metric.
MADE = {"up"}
GIVEN = {"job", "instance", "le"}
# Only with a collector are these there (tests/integration/test_traces.py).
TRACED = {"millrace_traces_dropped_total", "millrace_traces_failed_total"}
# Metrics that have no sample before the first run has ended, or the first look was taken.
AWAITED = {"millrace_runs_ended", "millrace_consumers_age_seconds", "millrace_projection_lag_messages"}
# Labels whose values are known: a matcher on them has to match something.
KNOWN = {"http_route", "consumer", "db_client_connection_state"}


async def families(up: Up) -> list[Metric]:
    found: list[Metric] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {up.ready['admin_key']}"}) as session:
        for service in SERVICES:
            async with session.get(f"{up.ready['url']}/metrics?service={service}") as answer:
                assert answer.status == 200, await answer.text()
                found += text_string_to_metric_families(await answer.text())
    return found


async def test_every_metric_that_is_asked_for_is_there_with_its_labels(up: Up, client: Client) -> None:
    await client.put_file("flows/nap.py", FLOW)
    await client.call("POST", "/api/v1/workflows/nap/runs?wait=60", body={"input": {}})
    await client.call("POST", "/hooks/none", body={}, status=404)

    async def counted() -> list[Metric]:
        found = await families(up)
        names = {metric.name for metric in found if metric.samples}
        return found if names >= AWAITED else []

    found = await eventually(counted, every=0.25)
    names: set[str] = set()
    labels: dict[str, dict[str, set[str]]] = {}
    for metric in found:
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        names |= {metric.name + ending for ending in endings}
        for sample in metric.samples:
            for label, value in sample.labels.items():
                labels.setdefault(sample.name, {}).setdefault(label, set()).add(value)
    for expression in expressions():
        for selected in selectors(promql_parser.parse(expression)):
            if selected.name in MADE | TRACED:
                continue
            assert selected.name in names, expression
            had = labels.get(selected.name)
            if had is None:
                continue  # nothing of it has happened, such as a dead letter
            wanted = {label for label, _, _ in selected.matchers} | selected.grouped_by
            assert wanted <= had.keys() | GIVEN, expression
            for label, operator, value in selected.matchers:
                if label in KNOWN and not operator.startswith("Not"):
                    assert any(re.fullmatch(value, one) or value == one for one in had[label]), expression


async def test_top_shows_what_the_stack_does(millrace: Command, client: Client) -> None:
    await client.put_file("flows/nap.py", FLOW)
    await client.call("POST", "/api/v1/workflows/nap/runs?wait=60", body={"input": {}})

    async def shown() -> Any:
        document = await millrace.json("top")
        told = {one["projection"] for one in document["projections"] if one["service"] == "executor"}
        return document if document["workflows"] and len(document["pools"]) >= 4 and told >= {"runs", "lines", "catalog"} else None

    found: Any = await eventually(shown)
    assert {one["service"]: one["status"] for one in found["services"]} == dict.fromkeys(SERVICES, "ready")
    assert found["accepting"]
    assert [one["workflow"] for one in found["workflows"]] == ["nap"]
    assert found["outcomes"]["succeeded"] >= 1
    assert found["queue"]["slots"] > 0


async def test_no_label_is_a_path_or_a_name_that_somebody_sent(up: Up, client: Client) -> None:
    await client.call("GET", "/api/v1/runs/made-up-by-a-stranger", status=404)
    await client.call("GET", "/made-up-by-a-stranger", status=404)
    await client.call("POST", "/hooks/made-up-by-a-stranger", body={}, status=404)
    assert not [sample for metric in await families(up) for sample in metric.samples if "made-up" in str(sample.labels)]
