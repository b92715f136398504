"""The page of decisions: their titles, by the subject that each names below its title."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
HEAD = """\
# Decisions

What was decided at some cost: the reason, the price and what was tried. A record says what is so today; its number is never given
again. Made of the records' titles and subjects by `python -m tests.reference`.

"""
SUBJECTS = (
    "Messages and the bus",
    "Webhooks and adapters",
    "Events and deliveries",
    "Runs",
    "The sandbox",
    "Workspaces",
    "Connections",
    "Logs and the archive",
    "Keys, users and organizations",
    "The API and the console",
    "Operating",
    "Speed",
    "The project itself",
)
_BEGINNING = re.compile(r"# (?P<title>\S.*)\n\n\*Subject: (?P<subject>.+)\*\n\n\S")


def page() -> str:
    """Return the page in Markdown; ValueError names a record that has no title and subject."""
    by_subject: dict[str, list[str]] = {subject: [] for subject in SUBJECTS}
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        beginning = _BEGINNING.match(path.read_text("utf-8"))
        if beginning is None or beginning["subject"] not in by_subject:
            message = f"{path.name} begins with a title and *Subject: …*, which is one of {', '.join(SUBJECTS)}"
            raise ValueError(message)
        by_subject[beginning["subject"]].append(f"- [{path.name[:4]}]({path.name}) {beginning['title']}\n")
    return HEAD + "\n".join(f"## {subject}\n\n{''.join(lines)}" for subject, lines in by_subject.items() if lines)
