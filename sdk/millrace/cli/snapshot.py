"""How a stack is at a moment: of `/readyz`, and of the `/metrics` of each service that answers."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from millrace.cli.api import Api, Document, Refused, address
from millrace.cli.metrics import Samples

_WEBHOOKS = "/hooks/{id}"
# What looks at a stack, as this does, is none of its work.
_LOOKS = ("/healthz", "/readyz", "/metrics")
_COUNT = "http_server_request_duration_seconds_count"
SERVICES = ("gateway", "events", "executor", "oauth", "logs")


def take(api: Api, before: Document | None = None) -> Document:
    """Return a snapshot; its rates are those since `before`, null without one. Raises `Refused`, `Unreachable`."""
    readiness = _readiness(api)
    services = {"gateway": readiness, **readiness.get("services", {})}
    samples = Samples()
    for service in SERVICES:
        if service == "gateway" or service not in readiness.get("unserved", {}):
            samples.add(_metrics(api, service) or "")
    at = time.time()
    ended = samples.by("millrace_runs_ended_total", "status")
    routes = samples.by(_COUNT, "http_route")
    totals = {
        "runs": sum(ended.values()),
        "webhooks": routes.get(_WEBHOOKS, 0.0),
        "requests": sum(number for route, number in routes.items() if route not in {_WEBHOOKS, *_LOOKS}),
    }
    return {
        "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": readiness.get("status"),
        "accepting": readiness.get("accepting", {}).get("webhooks"),
        "services": [_service(name, services.get(name, {}), readiness.get("unserved", {})) for name in SERVICES],
        "totals": totals,
        "per_second": {name: _rate(before, at, name, total) for name, total in totals.items()},
        "refused": samples.total(_COUNT, http_response_status_class="5xx"),
        "queue": {
            "messages": samples.total("millrace_queued_runs_messages"),
            "age_s": max((age for name, age in _ages(samples).items() if name.startswith("executor-runs-")), default=0.0),
            "slots": samples.total("millrace_pool_slots"),
            "slots_min": samples.total("millrace_pool_slots_min"),
            "slots_max": samples.total("millrace_pool_slots_max"),
            "taken": samples.total("millrace_pool_taken"),
        },
        "outcomes": ended,
        "workflows": _workflows(samples),
        "consumers": _consumers(samples),
        "projections": _projections(samples),
        "pools": _pools(samples),
        "_at": at,
    }


def public(snapshot: Document) -> Document:
    """Return a snapshot without what only the next one needs."""
    return {name: value for name, value in snapshot.items() if not name.startswith("_")}


def _readiness(api: Api) -> Document:
    """Return the answer of `/readyz`, which is one also where it is 503."""
    status, _, body = api.exchange("GET", "/readyz", None, {})
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if status not in {200, 503} or not isinstance(document, dict) or "status" not in document:
        raise Refused(status, document)
    return document


def _metrics(api: Api, service: str) -> str | None:
    """Return the metrics of a service; None where it does not answer. Raises `Refused` for a key that may not see them."""
    status, _, body = api.exchange("GET", address("/metrics", query={"service": service}), None, {})
    if status == 200:
        return body.decode(errors="replace")
    refused = Refused(status, _document(body))
    if refused.is_passing:
        return None
    raise refused


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _service(name: str, said: Document, unserved: Document) -> Document:
    parts = sorted(part for part, state in said.get("parts", {}).items() if not state["ready"])
    how = unserved.get(name, {}).get("how")
    well = not parts and (name == "gateway" or bool(said.get("ready")))
    return {"service": name, "status": how or ("ready" if well else "degraded"), "parts": parts}


def _rate(before: Document | None, at: float, name: str, total: float) -> float | None:
    """Return the growth a second; a counter that fell has begun anew."""
    if before is None or at <= before["_at"]:
        return None
    grown: float = total - before["totals"][name]
    passed: float = at - before["_at"]
    return (grown if grown >= 0 else total) / passed


def _ages(samples: Samples) -> dict[str, float]:
    return samples.by("millrace_consumers_age_seconds", "consumer")


def _workflows(samples: Samples) -> list[Document]:
    """Return the workflows whose runs end, the slowest first, by the mean duration of a run's last attempt."""
    sums = samples.by("millrace_run_duration_seconds_sum", "workflow")
    counts = samples.by("millrace_run_duration_seconds_count", "workflow")
    ended = samples.by("millrace_runs_ended_total", "workflow")
    good = samples.by("millrace_runs_ended_total", "workflow", status="succeeded")
    found = [
        {
            "workflow": name,
            "ended": number,
            "failed": number - good.get(name, 0.0),
            "mean_s": sums.get(name, 0.0) / counts[name] if counts.get(name) else None,
        }
        for name, number in ended.items()
    ]
    return sorted(found, key=lambda one: (-(one["mean_s"] or 0.0), one["workflow"]))


def _consumers(samples: Samples) -> list[Document]:
    waiting, in_work = (samples.by(f"millrace_consumers_{name}", "consumer") for name in ("waiting", "in_work"))
    found = [
        {"consumer": name, "waiting": waiting.get(name, 0.0), "in_work": in_work.get(name, 0.0), "age_s": age}
        for name, age in _ages(samples).items()
    ]
    return sorted(found, key=lambda one: (-one["age_s"], -one["waiting"], -one["in_work"], one["consumer"]))


def _projections(samples: Samples) -> list[Document]:
    ages = {_of(one.labels): one.value for one in samples.of("millrace_projection_lag_age_seconds")}
    found = [
        {
            "service": one.labels["service"],
            "projection": one.labels["projection"],
            "messages": one.value,
            "age_s": ages.get(key, 0.0),
        }
        for one in samples.of("millrace_projection_lag_messages")
        for key in [_of(one.labels)]
    ]
    return sorted(found, key=lambda one: (-one["age_s"], -one["messages"], one["service"], one["projection"]))


def _of(labels: dict[str, str]) -> tuple[str, str]:
    return labels.get("service", ""), labels.get("projection", "")


def _pools(samples: Samples) -> list[Document]:
    prefix, of = "db_client_connection", "db_client_connection_pool_name"
    used = samples.by(f"{prefix}_count", of, db_client_connection_state="used")
    figures = {name: samples.by(f"{prefix}_{name}", of) for name in ("max", "pending_requests", "timeouts_total")}
    return [
        {
            "pool": name,
            "used": used.get(name, 0.0),
            "max": most,
            "waiting": figures["pending_requests"].get(name, 0.0),
            "timeouts": figures["timeouts_total"].get(name, 0.0),
        }
        for name, most in sorted(figures["max"].items())
    ]
