"""How many filters a second are evaluated in the confined process, and how soon one is.

Realistic filters over a pull request as GitHub sends it, measured in turns, each the median of the rounds:

- `figure`: evaluations a second with 256 asked for at a time by four callers, of eight organizations (wanted: at least 20,000);
- the limit: the same filters over the same event, one after the other in this process, as the library is used without any wall;
- `cpu_us`: what one of them takes of the processor, in the service and in the process that evaluates;
- `one_us`: one evaluation on its own, from asking to its answer;
- `beside_us`: the same while another organization asks for filters that take all the time there is for them;
- `start_ms`, `memory_mb`: until a process is there, and what it takes of the memory that nothing else shares.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from shared.errors import Unavailable
from shared.expressions import process, worker
from shared.expressions.pool import Expressions, Trouble
from shared.expressions.syntax import pruned, syntax_of
from shared.health import Health

AT_A_TIME, CALLERS = 256, 4
ORGANIZATIONS = 8
WANTED = 20_000
ROUND = 0.25
FILTERS = (
    'event.data.action == "opened"',
    'event.data.pull_request.base.ref == "main" && !event.data.pull_request.draft',
    'event.data.pull_request.labels.exists(l, l.name == "bug")',
    'event.data.repository.full_name.startsWith("acme/") && event.data.pull_request.changed_files > 2',
    'event.type in ["pull_request.opened", "pull_request.reopened"]',
    '!event.data.sender.login.endsWith("[bot]") && event.data.pull_request.user.login != "renovate"',
    'event.data.action in ["opened", "synchronize", "reopened"]',
    'event.data.pull_request.head.ref.startsWith("release/")',
    'event.data.pull_request.user.login == "octocat" && event.data.pull_request.state == "open"',
    "event.data.repository.private == false",
    "has(event.data.pull_request.milestone) && event.data.pull_request.additions + event.data.pull_request.deletions < 500",
    'event.data.pull_request.title.matches("^(fix|feat)(\\\\(.+\\\\))?: ") || event.data.organization.login == "acme"',
)
HOSTILE = "event.data.l.map(a, event.data.l.map(b, event.data.l.map(c, [a, b, c]))) == [{}]"


def event() -> dict[str, Any]:
    """Return a pull request's event, of about 11 kB of JSON."""
    links = (
        "forks keys teams hooks events assignees branches tags blobs trees statuses languages stargazers contributors subscribers"
    )
    links += " commits comments contents compare merges archive downloads issues pulls milestones notifications labels releases"
    repository = {f"{name}_url": f"https://api.github.com/repos/acme/shop/{name}{{/id}}" for name in links.split()}
    repository |= {"id": 1, "name": "shop", "full_name": "acme/shop", "private": False, "default_branch": "main", "topics": []}
    of_user = "followers following gists starred subscriptions organizations repos events received_events"
    user = {f"{name}_url": f"https://api.github.com/users/octocat/{name}" for name in of_user.split()}
    user |= {"login": "octocat", "id": 2, "type": "User", "site_admin": False}
    end = {"ref": "main", "sha": "0" * 40, "user": user, "repo": repository}
    pull = {
        "number": 7,
        "state": "open",
        "title": "fix(cart): rounding",
        "user": user,
        "body": "Rounds once. " * 50,
        "draft": False,
    }
    pull |= {"labels": [{"id": n, "name": name, "color": "d73a4a"} for n, name in enumerate(("cart", "money", "bug"))]}
    pull |= {"head": end | {"ref": "rounding"}, "base": end, "additions": 10, "deletions": 4, "changed_files": 3, "milestone": None}
    data = {"action": "opened", "number": 7, "pull_request": pull, "repository": repository, "sender": user, "organization": user}
    head: dict[str, Any] = {
        "id": "e",
        "type": "pull_request.opened",
        "source": "github",
        "time": "2026-01-02T03:04:05Z",
        "headers": {},
    }
    return {"event": head | {"data": data}, "integration": None}


async def measure(_folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    variables = event()
    engine = worker.Engine(str(process.engine_path()), longest_value=process.LONGEST_VALUE)
    expected = [bool(engine.compiled(one).execute(variables)) for one in FILTERS]
    expressions = Expressions(Health("bench"))
    began = time.monotonic()
    await expressions.open()
    start_ms = (time.monotonic() - began) * 1000
    pid = expressions.state()["pids"][0]
    memory_mb = _memory_mb(pid)
    service_cpu, worker_cpu, evaluated = 0.0, 0.0, 0
    rates: list[float] = []
    bare: list[float] = []
    cut: list[float] = []
    try:
        until = time.monotonic() + seconds
        while len(rates) < 3 or time.monotonic() < until:
            before = time.process_time(), _cpu(pid), expressions.state()["evaluated"]
            rates.append(await _rate(expressions, variables, expected))
            service_cpu += time.process_time() - before[0]
            worker_cpu += _cpu(pid) - before[1]
            evaluated += expressions.state()["evaluated"] - before[2]
            bare.append(_in_process(engine, variables, is_pruned=False))
            cut.append(_in_process(engine, variables, is_pruned=True))
        alone = await _latency(expressions, variables)
        plain = await _latency(expressions, variables, "event.data.pull_request.draft")
        hostile = asyncio.create_task(_hostile(expressions))
        beside = await _latency(expressions, variables)
        hostile.cancel()
    finally:
        await expressions.close()
    return Outcome(
        name="expressions",
        figure=median(rates),
        unit="filters a second",
        limit=median(bare),
        ratio=median(rates) / median(bare),
        more={
            "rounds": len(rates),
            "event_bytes": len(msgspec.json.encode(variables)),
            "confined_a_second": median(rates),
            "best_round_a_second": max(rates),
            "as_wanted": median(rates) >= WANTED,
            "in_process_a_second": median(bare),
            "in_process_with_what_they_see_a_second": median(cut),
            "cpu_us": {"service": service_cpu / evaluated * 1e6, "worker": worker_cpu / evaluated * 1e6},
            "one_us": {"p50": percentile(alone, 50), "p99": percentile(alone, 99)},
            "plain_path_us": {"p50": percentile(plain, 50), "p99": percentile(plain, 99)},
            "beside_us": {"p50": percentile(beside, 50), "p99": percentile(beside, 99)},
            "start_ms": start_ms,
            "memory_mb": memory_mb,
        },
    )


async def _rate(expressions: Expressions, variables: dict[str, Any], expected: list[bool]) -> float:
    """Return evaluations a second, each answer compared."""
    began = time.perf_counter()
    count = 0

    async def asks() -> None:
        nonlocal count
        while time.perf_counter() < began + ROUND:
            asked = [
                expressions.value(f"org{number % ORGANIZATIONS}", FILTERS[number % len(FILTERS)], variables)
                for number in range(AT_A_TIME // CALLERS)
            ]
            answers = await asyncio.gather(*asked)
            if answers != [expected[number % len(FILTERS)] for number in range(len(asked))]:
                raise BenchError("a filter gave something else than in this process")
            count += len(asked)

    await asyncio.gather(*(asks() for _ in range(CALLERS)))
    return count / (time.perf_counter() - began)


def _in_process(engine: worker.Engine, variables: dict[str, Any], *, is_pruned: bool) -> float:
    """Return evaluations a second in this process, of the whole event or of what a filter sees of it."""
    programs = [engine.compiled(one) for one in FILTERS]
    seen = [pruned(variables, syntax_of(one).sees) if is_pruned else variables for one in FILTERS]
    began = time.perf_counter()
    count = 0
    while time.perf_counter() < began + ROUND:
        for program, given in zip(programs, seen, strict=True):
            program.execute(given)
        count += len(programs)
    return count / (time.perf_counter() - began)


async def _latency(expressions: Expressions, variables: dict[str, Any], source: str = FILTERS[1], times: int = 2000) -> list[float]:
    """Return the microseconds of evaluations that are asked for one after the other, with a pause before each."""
    took = []
    for _ in range(times):
        await asyncio.sleep(0.0005)
        began = time.perf_counter()
        await expressions.value("acme", source, variables)
        took.append((time.perf_counter() - began) * 1e6)
    return took


async def _hostile(expressions: Expressions) -> None:
    """Ask without end for filters that are all different, and each too much."""
    variables = {"event": {"data": {"l": list(range(400))}}}
    asking: set[asyncio.Task[None]] = set()

    async def ask(number: int) -> None:
        try:
            await expressions.value("evil", HOSTILE.format(number), variables)
        except (Trouble, Unavailable):
            await asyncio.sleep(0.01)

    for number in itertools.count():
        asking.add(asyncio.create_task(ask(number)))
        if len(asking) >= 64:
            _, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)


def _cpu(pid: int) -> float:
    """Return the seconds that a process has had of the processor."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock of another process, as clock_getcpuclockid(3) makes it


def _memory_mb(pid: int) -> float:
    """Return what a process has of the memory for itself; its libraries are shared by all of them."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


main = outcome.command(measure, seconds=10.0, about="Measure how many filters are evaluated a second, and how soon one is.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
