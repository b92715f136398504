"""`dev`: the author's own machine."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import click

import millrace
from millrace.cli import sdk_wheel, show
from millrace.cli.session import Session, asks

STARTER = Path(__file__).with_name("starter")
# Hidden, so that it is not deployed.
SDK = ".sdk"
# Left alone: a repository that was made before.
ALLOWED = {".git"}


@click.group()
def dev() -> None:
    """Workspaces on your own machine."""


@dev.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@asks
def init(session: Session, folder: Path) -> None:
    """Make a workspace: an example with tests, the SDK to install beside them, and settings for editors.

    DIR is made where it is not there. It may hold a git repository, and nothing else: no file is overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"{folder} is a file: name a folder that is empty, or not there yet.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in ALLOWED) if folder.exists() else []
    if others:
        named = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise click.UsageError(f"{folder} is not empty: it has {show.plain(named)}. Name a folder that is empty, or not there yet.")
    wheel = sdk_wheel.name(importlib.metadata.version("millrace"))
    for template in sorted(path for path in STARTER.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        file = folder / template.relative_to(STARTER)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(template.read_text(encoding="utf-8").replace("WHEEL", wheel), encoding="utf-8")
    (folder / SDK).mkdir()
    sdk_wheel.write(folder / SDK, Path(millrace.__file__).parent, importlib.metadata.version("millrace"))
    made = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    if session.is_json:
        show.document({"folder": str(folder), "files": made})
        return
    for path in made:
        show.said(show.plain(path))
    show.said(f"made {show.plain(str(folder))}; its README.md has the next steps")


COMMANDS = [dev]
