"""What the documents show is what happens: their commands are run, one after the other, as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.support.places import open_folder
from tests.support.programs import output
from tests.support.stack import ROOT, Up, running_up

_EXAMPLES = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MODULE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"\s+# exit (\d+)$")


class Shown(NamedTuple):
    """A command of a document's console: the exit code that it is said to have, and what it is shown to print, if that is."""

    command: str
    code: int
    lines: list[str]

    def prints(self, said: str) -> bool:
        """Return whether it printed what is shown, in which … stands for what is another in every place."""
        shown = ".+".join(map(re.escape, "\n".join(self.lines).split("…")))
        return not self.lines or re.fullmatch(shown, said.rstrip("\n")) is not None


def examples(document: Path) -> list[Shown]:
    """Return the commands of a document's consoles."""
    found: list[Shown] = []
    for block in _EXAMPLES.findall(document.read_text()):
        assert block.startswith("$ "), f"{document.name} shows a console that begins with no command: {block}"
        for line in block.splitlines():
            if line.startswith("$ "):
                code = _CODE.search(line)
                found.append(Shown(_CODE.sub("", line[2:]), int(code[1]) if code else 0, []))
            else:
                found[-1].lines.append(line)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up() -> AsyncIterator[Up]:
    """A stack that asks no sender: the documents name the public ones."""
    closed = os.environ | {"MILLRACE_EGRESS_DENY": "graph.microsoft.com api.github.com api.stripe.com"}
    with open_folder() as folder:
        async with running_up(folder / ".millrace", environment=closed) as stack:
            yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(up: Up) -> Path:
    """The folder that the documents speak of: beside the stack's, with the examples and the command."""
    folder = up.data.parent
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "bin").mkdir()
    (folder / "bin" / "millrace").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m millrace.cli "$@"\n')
    (folder / "bin" / "millrace").chmod(0o755)
    return folder


async def run(place: Path, command: str) -> tuple[int, str]:
    """Return the exit code of a command, and what it printed."""
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(place)}
    return await output("/bin/bash", "-o", "pipefail", "-c", command, cwd=place, environment=environment)


QUICK = "docs/quick-start.md"
SHOWN = ("deliveries", "topics", "subscriptions", "integrations", "adapters", "registrations", "internal-tools")


# The command's own page comes first: it names no source where there is but one.
@pytest.mark.parametrize("name", ["docs/cli.md", QUICK, *(f"docs/{name}.md" for name in SHOWN)])
async def test_every_command_that_is_shown_works_and_exits_as_said(place: Path, name: str) -> None:
    if name == QUICK:
        # It shows what is printed where nothing is deployed yet.
        shutil.rmtree(place / "flows", ignore_errors=True)
        (place / "nothing").mkdir()
        assert (await run(place, "millrace deploy nothing --prune"))[0] == 0
    for module, code in _MODULE.findall((ROOT / name).read_text()):
        (place / module).parent.mkdir(parents=True, exist_ok=True)
        (place / module).write_text(code)
    shown = examples(ROOT / name)
    assert shown
    for one in shown:
        found, said = await run(place, one.command)
        assert (found, one.prints(said)) == (one.code, True), (one.command, said)


async def test_the_command_speaks_to_a_stack_elsewhere_by_what_the_quick_start_sets(up: Up, place: Path, tmp_path: Path) -> None:
    """Beside no stack the command finds none, until both are set."""
    lines = re.findall(r"^export MILLRACE_.*$", (ROOT / QUICK).read_text(), re.MULTILINE)
    assert len(lines) == 2
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    for first, expected in (("", False), ("\n".join(lines).replace("DIR", shlex.quote(str(up.data))), True)):
        code, said = await output("/bin/bash", "-e", "-c", f"{first}\nmillrace sources list", cwd=tmp_path, environment=environment)
        assert (code == 0) == expected, said
