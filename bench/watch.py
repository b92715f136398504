"""Edit, save, see: how soon `millrace watch` has deployed a saved file and shows the next run's first line.

The file is one of a small workspace; each save changes what its workflow logs. Measured in turns, each the median of the rounds:

- `deployed_ms`: from the save to the line "deployed" of `watch` (the limit: the bare PUT of such a file, which registers its
  workflows as well, over a connection that is kept open);
- `line_ms`: from the request of a run to its first line on `watch`'s standard output (`run_ms`: the same request, waited for);
- `seen_ms`: from the save to that line, when the run is asked for as soon as the file is deployed (wanted: at most one second).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import Whole, whole

# Seconds between two rounds: whoever edits makes pauses, and `watch` looks at runs for as long as they take.
PAUSE = 1.2
FEWEST_ROUNDS = 5
OTHER_FILES = 20
SEEN_WANTED_MS = 1000.0
SAID_WITHIN = 20.0
FILE = """
from millrace import log, workflow

@workflow(name="edited")
def edited() -> None:
    log.info("round-{number}")
"""


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    workspace = folder / "workspace"
    workspace.mkdir()
    for number in range(OTHER_FILES):
        (workspace / f"module_{number}.py").write_text(f"NUMBER = {number}\n")
    (workspace / "edited.py").write_text(FILE.format(number=-1))
    deployed: list[float] = []
    lines: list[float] = []
    seen: list[float] = []
    puts: list[float] = []
    runs: list[float] = []
    async with whole(folder / "data") as stack, _watching(stack, workspace) as watching:
        await _until(watching, "deployed ")
        began = time.monotonic()
        number = 0
        while number < FEWEST_ROUNDS or time.monotonic() < began + seconds:
            await asyncio.sleep(PAUSE)
            saved = time.monotonic()
            (workspace / "edited.py").write_text(FILE.format(number=number))
            await _until(watching, "deployed ")
            asked = time.monotonic()
            await stack.api.call("POST", "/api/v1/workflows/edited/runs", body={"input": {}})
            await _until(watching, f"round-{number}")
            shown = time.monotonic()
            deployed.append((asked - saved) * 1000)
            lines.append((shown - asked) * 1000)
            seen.append((shown - saved) * 1000)
            puts.append(await _put(stack, number))
            began_run = time.monotonic()
            await stack.api.call("POST", "/api/v1/workflows/bare/runs?wait=20", body={"input": {}})
            runs.append((time.monotonic() - began_run) * 1000)
            number += 1
    return Outcome(
        name="watch",
        figure=median(deployed),
        unit="ms from save to deployed",
        limit=median(puts),
        ratio=median(deployed) / median(puts),
        more={
            "rounds": number,
            "deployed_ms": median(deployed),
            "deployed_p95_ms": percentile(deployed, 95),
            "put_ms": median(puts),
            "line_ms": median(lines),
            "line_p95_ms": percentile(lines, 95),
            "run_ms": median(runs),
            "seen_ms": median(seen),
            "seen_p95_ms": percentile(seen, 95),
            "seen_as_wanted": median(seen) <= SEEN_WANTED_MS,
        },
    )


async def _put(stack: Whole, number: int) -> float:
    """Put the same kind of file without `watch`; return the milliseconds."""
    content = FILE.format(number=number).replace("edited", "bare").encode()
    began = time.monotonic()
    view = await stack.api.call("PUT", "/api/v1/workspace/files/bare.py", data=content)
    if view["problems"]:
        raise BenchError(f"a PUT answered {view['problems']}")
    return (time.monotonic() - began) * 1000


@asynccontextmanager
async def _watching(stack: Whole, workspace: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "millrace.cli", "watch", str(workspace)],
        env={**os.environ, "MILLRACE_URL": stack.ready["url"], "MILLRACE_KEY": stack.ready["admin_key"]},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until(process: asyncio.subprocess.Process, word: str) -> None:
    """Read what `watch` says until a line holds this."""
    assert process.stdout is not None
    async with asyncio.timeout(SAID_WITHIN):
        while line := (await process.stdout.readline()).decode():
            if word in line:
                return
    raise BenchError(f"watch ended before it said {word!r}")


main = outcome.command(measure, seconds=30.0, about="Measure how soon a saved file is deployed and its next run's lines are seen.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
