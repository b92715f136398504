"""The documentation's page of the kill matrix: two parts, each written by its own drill, which leaves the other as it is."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kill-matrix.md"
HEADS = ("# The kill matrix\n", "## Runs of every kind, over two executors\n")
WEBHOOKS, RUNS = range(2)


def written(part: int, text: str, page: Path = PAGE) -> Path:
    """Put a part, which begins with its head, in the place of the one before; returns the page."""
    old = page.read_text("utf-8") if page.exists() else ""
    first, head, second = old.partition(HEADS[RUNS])
    parts = [first, head + second]
    parts[part] = text
    page.write_text("\n\n".join(one.strip() for one in parts if one.strip()) + "\n", encoding="utf-8")
    return page
