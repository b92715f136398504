"""`millrace git` on a whole stack, behind the walls of this machine, against a real repository that wants a token."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.remotes import TOKEN, Remote, hosting
from tests.support.stack import running_up

FLOW = "from millrace import workflow\n\n\n@workflow\ndef greet(name: str = 'nobody') -> str:\n    return f'{word}, {{name}}'\n"


def flow(word: str) -> bytes:
    return FLOW.format(word=word).encode()


@pytest_asyncio.fixture
async def millrace() -> AsyncIterator[Command]:
    """The command, beside a stack that may reach this machine."""
    with open_folder() as place:
        async with running_up(place / ".millrace", environment={**os.environ, "MILLRACE_EGRESS_ALLOW": "127.0.0.1"}) as up:
            yield Command(up.data.parent)


async def test_a_workspace_is_kept_in_a_repository_by_the_command(millrace: Command, tmp_path: Path) -> None:
    with hosting() as host:
        remote = host.add(Remote(tmp_path / "flows.git"))
        await millrace("git", "status", code=1)
        await millrace("secrets", "put", "git-token", "--readers", "services", "--value-file", "-", given=TOKEN)
        await millrace("repositories", "put", "flows", "--url", remote.url, "--secret", "git-token")
        folder = tmp_path / "folder"
        (folder / "flows").mkdir(parents=True)
        (folder / "flows" / "greet.py").write_bytes(flow("Hello"))
        await millrace("deploy", str(folder))
        assert "to push: flows/greet.py (added)" in await millrace("git", "status")
        assert "pushed flows/greet.py" in await millrace("git", "sync", "-m", "Greet")
        assert remote.files() == {"flows/greet.py": flow("Hello")}
        assert remote.log()[0].message.startswith(b"Greet\n\nMillrace-Push: ")
        assert "both sides are alike" in await millrace("git", "status")
        # What somebody else commits is served.
        remote.commit({"flows/greet.py": flow("Welcome"), "notes.md": b"notes\n"})
        assert "-    return f'Hello" in await millrace("git", "diff", "flows/greet.py")
        assert "pulled flows/greet.py\npulled notes.md\n" in await millrace("git", "pull")
        assert "Welcome, Ada" in await millrace("run", "greet", "-i", "name=Ada", "--wait")
        # Both change one file.
        (folder / "flows" / "greet.py").write_bytes(flow("Good morning"))
        await millrace("deploy", str(folder))
        remote.commit({"flows/greet.py": flow("Good evening"), "notes.md": b"more notes\n"})
        done = await millrace.json("git", "sync", code=1)
        assert (done["to_pull"], done["to_push"], done["conflicts"]) == (["notes.md"], [], ["flows/greet.py"])
        shown = await millrace("git", "conflicts", code=1)
        assert all(word in shown for word in ("Welcome", "Good morning", "Good evening", "changed in both"))
        await millrace("git", "resolve", "flows/greet.py", "--ours")
        assert "pushed flows/greet.py" in await millrace("git", "push")
        assert remote.files()["flows/greet.py"] == flow("Good morning")
        (folder / "flows" / "greet.py").write_bytes(flow("Nonsense"))
        await millrace("deploy", str(folder))
        await millrace("git", "discard", "flows/greet.py")
        assert "Good morning, Ada" in await millrace("run", "greet", "-i", "name=Ada", "--wait")
        # A viewer looks, and no more; what was done is on record, and the token is not.
        viewer = {
            "MILLRACE_KEY": (await millrace.json("keys", "create", "looker", "--role", "viewer"))["key"],
            "MILLRACE_URL": json.loads((millrace.place / ".millrace" / "ready.json").read_text())["url"],
        }
        await millrace("git", "status", **viewer)
        assert "developer" in (await millrace.both("git", "sync", code=1, **viewer))[1]

        async def recorded() -> str | None:
            said = await millrace("audit", "type:audit.sync", "--since", "15m", "--output", "json")
            return said if '"flows"' in said else None

        assert TOKEN not in str(await eventually(recorded))
