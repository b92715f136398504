"""What became of the stack: nothing restarted, everything ready, no projection behind, nothing waiting."""

from __future__ import annotations

from typing import Any

import msgspec
from nats.aio.client import Client as Nats

from shared.messages.log import SERVICES
from shared.messages.timer import fired_for
from shared.pull import StreamError, api_request
from shared.resources import KINDS
from shared.runs import END_SUBJECTS
from shared.streams import STREAMS
from tests.fuzz.place import Place, eventually
from tests.fuzz.wire import Unanswered

# Seconds for rows to follow the streams, and for readiness to follow the rows.
CAUGHT_UP_WITHIN = 60.0
_WORKFLOWS = ("workflow.*.changed", "workflow.*.removed")


def _nouns(owner: str) -> tuple[str, ...]:
    return tuple(f"{kind.noun}.>" for kind in KINDS.values() if kind.owner == owner and not kind.in_vault)


# Projections that read some messages of their stream only, by service.
_FILTERED = {
    "events": {
        "catalog": _nouns("events"),
        "registrations": ("registration.>",),
        "schedules": ("schedule.>",),
        "declared-schedules": _WORKFLOWS,
        "timers": (fired_for("events"),),
        "held": ("event.*.held",),
        "held-runs": END_SUBJECTS,
        "held-timers": (fired_for("events"),),
    },
    "executor": {
        "catalog": ("file.>", "workflow.>", "adapter.>"),
        "history": ("file.>", "history.>"),
        "timers": (fired_for("executor"),),
    },
    "oauth": {"catalog": ("variable.>",)},
    "logs": {"catalog": _nouns("logs")},
}


class Watch:
    """Looks at one stack from its start on."""

    def __init__(self, place: Place, admin: Nats) -> None:
        self._place = place
        self._admin = admin
        self._began = self._processes()

    def restarted(self) -> dict[str, Any]:
        """Return how often each process was started again, those that were."""
        now = self._processes()
        return {
            name: {"restarts": state["restarts"] - self._began[name]["restarts"], "last_exit": state.get("last_exit")}
            for name, state in now.items()
            if state["pid"] != self._began[name]["pid"] or state["restarts"] != self._began[name]["restarts"]
        }

    async def complaints(self) -> list[str]:
        """Wait for the stack to come to rest; return what is wrong with it."""
        found = [f"{name} was started again: {said}" for name, said in self.restarted().items()]
        wanted = await self._wanted()
        behind: dict[str, str] = {}

        async def caught_up() -> bool:
            behind.clear()
            behind.update(await self._behind(wanted))
            return not behind

        if not await eventually(caught_up, CAUGHT_UP_WITHIN, 0.5):
            found += [f"projection {name} is behind: {how}" for name, how in behind.items()]
        unready: list[str] = []

        async def ready() -> bool:
            unready.clear()
            unready.extend(await self._unready())
            return not unready

        if not await eventually(ready, 20, 0.5):
            found += unready
        return found

    async def errors(self) -> dict[str, int]:
        """Return how often each error stands in the services' own logs."""
        async with self._place.database() as database:
            rows = await database.fetch(
                "SELECT service, data->>'event' AS event, count(*) AS n FROM logs.message"
                " WHERE stream = 'LOGS' AND level IN ('error', 'critical') GROUP BY 1, 2 ORDER BY 3 DESC"
            )
        return {f"{row['service']} {row['event']}": row["n"] for row in rows}

    def _processes(self) -> dict[str, Any]:
        states: dict[str, Any] = msgspec.json.decode((self._place.up.data / "run" / "state.json").read_bytes())["processes"]
        return states

    async def _wanted(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """Return by stream and filters the last message that there is now; what comes meanwhile is not waited for."""
        wanted = {(stream.name, ()): await self._last(stream.name) for stream in STREAMS}
        async with self._place.database() as database:
            for service, projections in _FILTERED.items():
                for name, filters in projections.items():
                    for row in await database.fetch(f"SELECT stream FROM {service}.checkpoint WHERE projection = $1", name):
                        wanted[row["stream"], filters] = await self._last(row["stream"], filters)
        return wanted

    async def _behind(self, wanted: dict[tuple[str, tuple[str, ...]], int]) -> dict[str, str]:
        """Return the projections that stand before the last message that concerned them."""
        found: dict[str, str] = {}
        async with self._place.database() as database:
            for service in SERVICES:
                if service == "gateway":
                    continue
                for row in await database.fetch(f"SELECT projection, stream, last_seq FROM {service}.checkpoint"):
                    last = wanted[row["stream"], _FILTERED.get(service, {}).get(row["projection"], ())]
                    if row["last_seq"] < last:
                        found[f"{service}.{row['projection']}"] = f"{row['last_seq']} of {last} in {row['stream']}"
        return found

    async def _last(self, stream: str, filters: tuple[str, ...] = ()) -> int:
        if not filters:
            info = await api_request(self._admin, f"$JS.API.STREAM.INFO.{stream}", None)
            return int(info["state"]["last_seq"])
        last = 0
        for subject in filters:
            try:
                got = await api_request(self._admin, f"$JS.API.STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
                last = max(last, int(got["message"]["seq"]))
            except StreamError:
                continue
        return last

    async def _unready(self) -> list[str]:
        client = self._place.client()
        try:
            answer = await client.request("GET", b"/readyz")
        except Unanswered as error:
            return [f"/readyz does not answer: {error}"]
        finally:
            client.close()
        said = msgspec.json.decode(answer.body)
        wrong = [
            f"{name}: {part}: {problem['detail']}"
            for name, document in {"gateway": said, **said["services"]}.items()
            for part, problem in document.get("parts", {}).items()
            if not problem["ready"]
        ]
        if answer.status != 200 or said["degraded"] or said.get("failing"):
            wrong.append(f"/readyz says {answer.status}, degraded {said['degraded']}, failing {said.get('failing')}")
        return wrong
