"""What several shards of RUNS cost on one machine: runs carried out in a second, and the broker's memory for each run.

Installations of one shard and of four, one after the other and again, carry out the same number of runs of a workflow that does
nothing, with `isolation="workflow"`, 64 asked for at a time. The broker is one, and has all shards: what it holds is not divided
here, as it is among the brokers of a cluster.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from bench.support import outcome
from bench.support.callers import Callers
from bench.support.connection import Post
from bench.support.cpu import Meter
from bench.support.outcome import BenchError, Outcome
from bench.support.running import whole

WORKFLOW = b"""
from millrace import workflow


@workflow(name="nothing", isolation="workflow")
def nothing() -> None:
    return None
"""
SHARDS = (1, 4)
RUNS = 2000
WARM_UP = 100
IN_FLIGHT = 64
# Of a turn: both stacks are started, and carry out their runs.
SECONDS = 30.0


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    per_s: dict[int, list[float]] = {shards: [] for shards in SHARDS}
    cpu: dict[int, list[dict[str, float]]] = {shards: [] for shards in SHARDS}
    memory: dict[int, list[float]] = {shards: [] for shards in SHARDS}
    idle: dict[int, list[float]] = {shards: [] for shards in SHARDS}
    for _ in range(max(2, round(seconds / SECONDS))):
        for shards in SHARDS:
            async with whole(folder / str(shards), MILLRACE_RUN_SHARDS=str(shards)) as stack:
                view = await stack.api.call("PUT", "/api/v1/workspace/files/nothing.py", data=WORKFLOW)
                if view["problems"]:
                    raise BenchError(f"the workflow cannot be deployed: {view['problems'][0]['message']}")
                headers = {"Content-Type": "application/json", "Authorization": f"Bearer {stack.ready['admin_key']}"}
                url = f"{stack.ready['url']}/api/v1/workflows/nothing/runs?wait=60"
                callers = Callers(Post(url=url, headers=headers, body=b'{"input":{}}'), 200)
                try:
                    await callers.many(WARM_UP, IN_FLIGHT)
                    before, meter = _memory(stack.ready["nats_pid"]), Meter(stack.pids)
                    answers = await callers.many(RUNS, IN_FLIGHT)
                    used = meter.seconds()
                finally:
                    callers.close()
                per_s[shards].append(RUNS / (max(one.answered for one in answers) - min(one.asked for one in answers)))
                cpu[shards].append({part: one / RUNS * 1000 for part, one in used.items()})
                idle[shards].append(before / 1024)
                memory[shards].append((_memory(stack.ready["nats_pid"]) - before) / RUNS)
    one, several = SHARDS
    return Outcome(
        name="shards",
        figure=median(per_s[several]),
        unit=f"runs per second with {several} shards",
        limit=median(per_s[one]),
        ratio=median(other / alone for other, alone in zip(per_s[several], per_s[one], strict=True)),
        more={
            "runs_per_s": per_s,
            "broker_mb_before": idle,
            "broker_kb_per_run": memory,
            "cpu_ms_per_run": {
                shards: {part: median(of[part] for of in turns) for part in turns[0]} for shards, turns in cpu.items()
            },
        },
    )


def _memory(pid: int) -> float:
    """Return the memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return float(status.split("VmRSS:", 1)[1].split(None, 1)[0])


main = outcome.command(measure, seconds=60.0, about="Measure what several shards of RUNS cost on one machine.")


if __name__ == "__main__":
    main()
