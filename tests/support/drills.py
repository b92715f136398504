"""A quick drill as an operator runs it, and what it said last."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from tests.support.stack import ROOT


async def said_by(drill: str, bound: float) -> dict[str, Any]:
    """Run the module `drill` within `bound` seconds; return its JSON, with `exit` and all it said as `text`."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", drill, "--quick", "--json"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(bound):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    text = said.decode()
    last = text.splitlines()[-1]
    assert last.startswith("{"), text
    found: dict[str, Any] = msgspec.json.decode(last)
    return found | {"exit": process.returncode, "text": text}
