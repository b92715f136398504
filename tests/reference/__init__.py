"""The pages of reference, made of what the code declares: `python -m tests.reference` writes those that have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.reference import adapters, api, commands, configuration, decisions, licences, messages, sdk

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "api.md": api.page,
    "commands.md": commands.page,
    "adapter-settings.md": adapters.page,
    "messages.md": messages.page,
    "sdk-reference.md": sdk.page,
    "licences.md": licences.page,
    "decisions/index.md": decisions.page,
}
