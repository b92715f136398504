"""Deploy a folder: how long 200 files take as one commit, whose code is read once, beside what storing them takes alone.

Each round changes every file, half of which define a workflow:

- `commit_ms`: `POST /api/v1/workspace/commits` with all of them, answered when their workflows are served;
- `stored_ms` (the limit): the same contents under names that are no code, so that nothing is read or registered;
- `put_ms`: one of the files by `PUT`, which reads the whole workspace's code; `puts_ms` is that for all of them.
"""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Whole, whole

FILES = 200
FEWEST_ROUNDS = 3
PUTS = 3
FLOW = "from millrace import workflow\n\n\n@workflow\ndef flow_{number}() -> int:\n    return {round}\n"
MODULE = "NUMBER, ROUND = {number}, {round}\n"


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds."""
    commits: list[float] = []
    stored: list[float] = []
    puts: list[float] = []
    async with whole(folder / "data") as stack:
        began = time.monotonic()
        number = 0
        while number < FEWEST_ROUNDS or time.monotonic() < began + seconds:
            files = {f"flows/file_{one}": (FLOW if one % 2 else MODULE).format(number=one, round=number) for one in range(FILES)}
            stored.append(await _commit(stack, {f"{path}.txt": content for path, content in files.items()}))
            commits.append(await _commit(stack, {f"{path}.py": content for path, content in files.items()}))
            for one in range(PUTS):
                content = FLOW.format(number=f"put_{one}", round=number)
                puts.append(await _timed(stack, "PUT", f"/api/v1/workspace/files/put_{one}.py", data=content.encode()))
            number += 1
    return Outcome(
        name="deployment",
        figure=median(commits),
        unit=f"ms for {FILES} files",
        limit=median(stored),
        ratio=median(commits) / median(stored),
        more={
            "rounds": number,
            "commit_ms": median(commits),
            "stored_ms": median(stored),
            "put_ms": median(puts),
            "puts_ms": median(puts) * FILES,
        },
    )


async def _commit(stack: Whole, files: dict[str, str]) -> float:
    encoded = {path: base64.b64encode(content.encode()).decode() for path, content in files.items()}
    return await _timed(stack, "POST", "/api/v1/workspace/commits", body={"files": encoded})


async def _timed(stack: Whole, method: str, path: str, **given: Any) -> float:
    """Return the milliseconds of a call whose code has no problems."""
    began = time.monotonic()
    answer = await stack.api.call(method, path, **given)
    if answer["problems"]:
        raise BenchError(f"{method} {path} answered {answer['problems']}")
    return (time.monotonic() - began) * 1000


main = outcome.command(
    measure, seconds=30.0, about="Measure how long a folder takes as one commit, beside its storage alone and its files one by one."
)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
