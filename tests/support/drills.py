"""A quick drill as an operator runs it, and what it said last."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
import pytest

from tests.support.programs import SKIPPED, program


async def said_by(drill: str, bound: float, *options: str) -> dict[str, Any]:
    """Run the module `drill` within `bound` seconds; return its JSON, with `exit` and all it said as `text`.

    One that takes longer is ended, which it does in order, and its words are told. Skips the test where it cannot be carried out.
    """
    process = await program(sys.executable, "-m", drill, "--quick", "--json", *options)
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
    if process.returncode == SKIPPED:
        pytest.skip(last)
    assert last.startswith("{"), text
    found: dict[str, Any] = msgspec.json.decode(last)
    return found | {"exit": process.returncode, "text": text}
