"""What the console is made of, as it is shipped."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from services.gateway.api.sign_in_page import FOLDER

SHIPPED = FOLDER / "console"
# Bytes, compressed, of what the first page loads.
MOST = 200_000


def test_the_page_holds_no_code_and_names_nothing_elsewhere() -> None:
    page = (SHIPPED / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert not re.search(r"\son\w+=|\sstyle=|<style", page)
    for named in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert named == "/docs" or (SHIPPED / named.removeprefix("/console/")).is_file(), named


def test_nothing_makes_markup_of_text_or_asks_another_host() -> None:
    for path in sorted(SHIPPED.rglob("*.js")):
        code = path.read_text()
        for way in ("document.write", "eval(", "new Function", "insertAdjacentHTML", "importScripts"):
            assert way not in code, (path.name, way)
        assert [found for found in re.findall(r"https?://[\w.-]+", code) if found != "http://www.w3.org"] == [], path.name


def test_the_first_page_is_small() -> None:
    loaded = [SHIPPED / "index.html", *(path for path in first(SHIPPED))]
    assert sum(len(gzip.compress(path.read_bytes())) for path in loaded) < MOST


def first(folder: Path) -> list[Path]:
    """Return every file that may be loaded before the first page is shown: all of them, as none is large."""
    return sorted((folder / "assets").iterdir())
