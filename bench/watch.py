"""Edit, save, see: how soon `millrace watch` has deployed a saved file and shows the next run's first line.

The file is one of a small workspace; each save changes what its workflow logs. Measured in turns, each the median of the rounds:

- `deployed_ms`: from the save to the line "deployed" of `watch` (the limit: the bare PUT of such a file, which registers its
  workflows as well, over a connection that is kept open);
- `line_ms`: from the request of a run to its first line on `watch`'s standard output (`run_ms`: the same request, waited for);
- `seen_ms`: from the save to that line, when the run is asked for as soon as the file is deployed (wanted: at most one second);
- `packages_deployed_ms`, `packages_seen_ms`: the same of a workspace that asks for `PACKAGES`, whose file imports them (wanted:
  deployed in a second, since a change of code alone resolves and builds nothing).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
PACKAGES = ("requests", "pandas")
BUILT_WITHIN = 240.0
SAID_WITHIN = 20.0
FILE = """
from millrace import log, workflow

@workflow(name="edited")
def edited() -> None:
    log.info("round-{number}")
"""


@dataclass
class Rounds:
    """Milliseconds of each round; see the top."""

    deployed: list[float] = field(default_factory=list)
    lines: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    puts: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds, once for each kind of workspace."""
    plain = await _rounds(folder / "plain", seconds, ())
    packages = await _rounds(folder / "packages", seconds, PACKAGES)
    return Outcome(
        name="watch",
        figure=median(plain.deployed),
        unit="ms from save to deployed",
        limit=median(plain.puts),
        ratio=median(plain.deployed) / median(plain.puts),
        more={
            "rounds": len(plain.seen),
            "deployed_ms": median(plain.deployed),
            "deployed_p95_ms": percentile(plain.deployed, 95),
            "put_ms": median(plain.puts),
            "line_ms": median(plain.lines),
            "line_p95_ms": percentile(plain.lines, 95),
            "run_ms": median(plain.runs),
            "seen_ms": median(plain.seen),
            "seen_p95_ms": percentile(plain.seen, 95),
            "seen_as_wanted": median(plain.seen) <= SEEN_WANTED_MS,
            "packages_rounds": len(packages.seen),
            "packages_deployed_ms": median(packages.deployed),
            "packages_deployed_p95_ms": percentile(packages.deployed, 95),
            "packages_put_ms": median(packages.puts),
            "packages_seen_ms": median(packages.seen),
            "packages_as_wanted": median(packages.deployed) <= SEEN_WANTED_MS,
        },
    )


async def _rounds(folder: Path, seconds: float, packages: tuple[str, ...]) -> Rounds:
    """Save, deploy and run for so many seconds, in a workspace that asks for these packages."""
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    for number in range(OTHER_FILES):
        (workspace / f"module_{number}.py").write_text(f"NUMBER = {number}\n")
    content = "".join(f"import {one}\n" for one in packages) + FILE
    (workspace / "edited.py").write_text(content.format(number=-1))
    if packages:
        (workspace / "requirements.txt").write_text("\n".join(packages) + "\n")
    found = Rounds()
    async with whole(folder / "data") as stack, _watching(stack, workspace) as watching:
        await _until(watching, "deployed ", BUILT_WITHIN)
        await _is_there(stack)
        began = time.monotonic()
        while len(found.seen) < FEWEST_ROUNDS or time.monotonic() < began + seconds:
            number = len(found.seen)
            await asyncio.sleep(PAUSE)
            saved = time.monotonic()
            (workspace / "edited.py").write_text(content.format(number=number))
            await _until(watching, "deployed ")
            asked = time.monotonic()
            await stack.api.call("POST", "/api/v1/workflows/edited/runs", body={"input": {}})
            await _until(watching, f"round-{number}")
            shown = time.monotonic()
            found.deployed.append((asked - saved) * 1000)
            found.lines.append((shown - asked) * 1000)
            found.seen.append((shown - saved) * 1000)
            found.puts.append(await _put(stack, number, content))
            began_run = time.monotonic()
            await stack.api.call("POST", "/api/v1/workflows/bare/runs?wait=20", body={"input": {}})
            found.runs.append((time.monotonic() - began_run) * 1000)
    return found


async def _is_there(stack: Whole) -> None:
    """Wait until the workflow is served, which takes as long as the building of its packages."""
    async with asyncio.timeout(BUILT_WITHIN):
        while "edited" not in {one["name"] for one in (await stack.api.call("GET", "/api/v1/workflows"))["items"]}:
            await asyncio.sleep(0.2)


async def _put(stack: Whole, number: int, text: str) -> float:
    """Put the same kind of file without `watch`; return the milliseconds."""
    content = text.format(number=number).replace("edited", "bare").encode()
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


async def _until(process: asyncio.subprocess.Process, word: str, within: float = SAID_WITHIN) -> None:
    """Read what `watch` says until a line holds this."""
    assert process.stdout is not None
    async with asyncio.timeout(within):
        while line := (await process.stdout.readline()).decode():
            if word in line:
                return
    raise BenchError(f"watch ended before it said {word!r}")


main = outcome.command(measure, seconds=30.0, about="Measure how soon a saved file is deployed and its next run's lines are seen.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
