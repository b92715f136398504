"""A quick drill as an operator runs it, and what it said last."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from tests.support.stack import ROOT


async def said_by(drill: str, bound: float) -> dict[str, Any]:
    """Run the module `drill` within `bound` seconds; return its JSON, with `exit` and all it said as `text`.

    One that takes longer is ended, which it does in order, and its words are told.
    """
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", drill, "--quick", "--json"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    communicating = asyncio.ensure_future(process.communicate())
    try:
        await asyncio.wait((communicating,), timeout=bound)
        is_late = not communicating.done()
    finally:
        if process.returncode is None:
            process.terminate()
        said, _ = await communicating
    text = said.decode()
    assert not is_late, f"not done after {bound:.0f} s: {text}"
    last = text.splitlines()[-1]
    assert last.startswith("{"), text
    found: dict[str, Any] = msgspec.json.decode(last)
    return found | {"exit": process.returncode, "text": text}
