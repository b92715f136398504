"""The messages that the page for operators explains are messages of the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of a row: what stands as code in its first cell.
_ROW = re.compile(r"^\| (.*?) \|", re.MULTILINE)
SHORTEST = 4


def pieces(message: str) -> list[str]:
    """Return the parts of a message that are the same everywhere."""
    return [part for part in (one.strip() for one in message.split("…")) if len(part) >= SHORTEST]


def test_every_message_that_is_explained_is_one_that_the_code_says() -> None:
    # Sentences are put together over lines.
    joined = re.compile(r"\"\s*\n\s*f?\"")
    folders = ("deploy", "services", "shared", "sdk")
    code = "\n".join(joined.sub("", path.read_text("utf-8")) for folder in folders for path in (ROOT / folder).rglob("*.py"))
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = [message for cell in _ROW.findall(page) for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 60
    assert [part for message in messages for part in pieces(message) if part not in code] == []
