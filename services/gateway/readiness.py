"""The answer of `/readyz`: whether accepted work is served, which part is not and since when, and what is still accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from services.gateway.backlog import WebhookBacklog
from services.gateway.supervisor_reports import ServiceExit, ServiceProcess, told
from shared.envelope import rfc3339, utc_now
from shared.health import Health

# Work that stands still while a service is away. Work accepted before or meanwhile waits on the bus and is not lost.
UNDONE = {
    "gateway": "nothing is taken while it is away",
    "events": "nothing is routed",
    "executor": "no run is executed",
    "oauth": "no run gets a token, and no connection is made",
    "logs": "nothing is archived or found",
    "nats": "nothing is taken",
    "postgres": "no service reads or writes its rows",
}

# down: no process. hung: it does not answer its supervisor. failing: it dies again and again. silent: it does not answer the
# gateway, for an unknown reason; it may be starting.
How = Literal["down", "hung", "failing", "silent"]


class Unserved(msgspec.Struct, frozen=True, kw_only=True):
    """A service or store that does not serve: its state and since when (RFC 3339), and the work that waits meanwhile."""

    how: How
    since: str
    detail: str
    effect: str
    last_exit: ServiceExit | None = None


class Accepting(msgspec.Struct, frozen=True, kw_only=True):
    """Whether webhooks are taken and stored, and why not."""

    webhooks: bool
    reason: str | None = None


class Readiness:
    """Joins the reports of the gateway, the other services and their supervisor. `supervisor` is its file, if there is one."""

    def __init__(self, health: Health, supervisor: Path | None, backlog: WebhookBacklog) -> None:
        self._health = health
        self._supervisor = supervisor
        self._backlog = backlog
        self._silent_since: dict[str, str] = {}

    def document(self, services: dict[str, dict[str, Any] | None], *, broker_answers: bool = True) -> dict[str, Any]:
        """Return the answer of `/readyz` from each service's own report; None: the service did not answer in time.

        `ready` means that every part of the gateway is well that it does not go on without, and no service is `unserved`. A service
        that answers and is not well is `degraded`: it works in part, or will. So are the parts of the gateway that it goes on
        without, the backlog, when it comes near its bounds, and `quarantined`, when rows do not open: each is of one
        organization, and fails for that one alone, which is no reason to serve nobody.
        """
        processes, failing = told(self._supervisor)
        # The gateway answers this itself. Only its supervisor knows of the database.
        answers = {name: said is not None for name, said in services.items()} | {"nats": broker_answers}
        unserved = {
            name: why
            for name in UNDONE
            if (why := self._unserved(name, processes.get(name), answers=answers.get(name, True), failing=name in failing))
        }
        degraded = [name for name, said in services.items() if said is not None and not said["ready"] and name not in unserved]
        degraded += self._health.impaired
        if self._backlog.problem is not None:
            degraded.append("backlog")
        quarantined = {name: rows for name, said in services.items() if (rows := _quarantined(said))}
        if quarantined:
            degraded.append("quarantined")
        ready = self._health.ready and not unserved
        return self._health.document() | {
            "ready": ready,
            "status": "ready" if ready and not degraded else "degraded" if ready else "unready",
            "accepting": self._accepting(broker_answers=broker_answers),
            "unserved": unserved,
            "degraded": degraded,
            "quarantined": quarantined,
            "failing": {name: processes[name] for name in failing if name in processes},
            "services": {name: said or _silent(name) for name, said in services.items()},
            "sandbox": (services["executor"] or {}).get("sandbox", {"tier": None}),
        }

    def _accepting(self, *, broker_answers: bool) -> Accepting:
        """Return whether webhooks are taken: they need only the gateway and the broker, until the backlog is full."""
        if not self._health.started:
            return Accepting(webhooks=False, reason="the gateway is starting or stopping")
        broker = self._health.problem("broker") or (None if broker_answers else "does not answer")
        if broker is not None:
            return Accepting(webhooks=False, reason=f"broker: {broker}")
        full = f"backlog: {self._backlog.problem}" if self._backlog.is_full else None
        return Accepting(webhooks=full is None, reason=full)

    def _unserved(self, name: str, process: ServiceProcess | None, *, answers: bool, failing: bool) -> Unserved | None:
        if name in {"nats", "postgres"} and process is not None and process.silent_since is not None:
            answers = False
        if answers:
            self._silent_since.pop(name, None)
        silent_since = None if answers else self._silent_since.setdefault(name, rfc3339(utc_now()))
        last_exit = None if process is None else process.last_exit
        how: How
        if process is not None and failing:
            how, since = "failing", process.failing_since or process.since
            detail = f"has ended {process.failures} times in a row, each time soon after its start"
        elif process is not None and process.pid is None:
            how, since, detail = "down", process.since, "has ended and is about to be started again"
        elif silent_since is None:
            return None
        elif process is not None and process.silent_since is not None:
            how, since, detail = "hung", process.silent_since, "runs and answers nobody"
        else:
            how, since, detail = "silent", silent_since, "does not answer the gateway"
        return Unserved(how=how, since=since, detail=f"{name} {detail}", effect=UNDONE[name], last_exit=last_exit)


def _quarantined(said: dict[str, Any] | None) -> int:
    """Return how many rows of a service do not open, as far as it has looked."""
    return ((said or {}).get("quarantined") or {}).get("rows") or 0


def _silent(name: str) -> dict[str, Any]:
    return {"service": name, "ready": False, "parts": {}, "detail": f"the {name} service did not answer in time"}
