"""Packages of a workspace: asked for in a file, there in every run of its workflows, and never in the way of what serves."""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.executor.environments import builds
from services.executor.runs import end_messages
from services.executor.workspaces import commits
from shared.envelope import new_id, open_message
from shared.errors import NotFound, Unavailable
from shared.messages import Audited
from shared.questions.environments import BuildEnvironments, ListEnvironments
from shared.questions.runs import ListAttempts
from tests.integration.test_oauth_connections import buses, stored
from tests.support import resources
from tests.support.index import index_of
from tests.support.inside import eventually, running
from tests.support.packages import wheel
from tests.support.resources import ring
from tests.support.river import Outside, river
from tests.support.servers import Place

FLOW = b"import plain\nfrom millrace import workflow\n\n\n@workflow\ndef version() -> str:\n    return plain.VERSION\n"
SCRIPT = b"# /// script\n# dependencies = ['plain==%s']\n# ///\n" + FLOW


@pytest.fixture
def links(data: Path) -> Path:
    """A folder of wheels that is the only index."""
    folder = data / "links"
    folder.mkdir()
    folder.chmod(0o755)
    for version in ("1.0", "2.0"):
        wheel(folder, "plain", version)
    wheel(folder, "needy", requires=("absent>=3",))
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


@pytest.fixture
def conf(data: Path, links: Path) -> str:
    path = data / "pip.conf"
    path.write_text(f"[global]\nno-index = true\nfind-links = {links}\n")
    return str(path)


@pytest.fixture
async def outside(place: Place, data: Path, conf: str) -> AsyncIterator[Outside]:
    async with river(place, data, MILLRACE_PIP_CONF=conf) as one:
        yield one


async def _result(outside: Outside, workflow: str = "version") -> object:
    return (await outside.run(await outside.request(workflow), "succeeded")).result


async def test_a_workflow_imports_the_packages_that_its_workspace_asks_for(outside: Outside) -> None:
    view = await outside.put_file("requirements.txt", b"plain<2\n")
    assert view.problems == []
    view = await outside.put_file("flow.py", FLOW)
    assert (view.workflows, view.problems) == (["version"], [])
    assert await _result(outside) == "1.0"
    before = await outside.version("version")
    assert (await outside.put_file("requirements.txt", b"plain\n")).problems == []
    assert await outside.version("version") != before
    assert await _result(outside) == "2.0"
    older = await outside.request("version", version=before)
    assert (await outside.run(older, "succeeded")).result == "1.0"


async def test_requirements_that_cannot_be_had_are_a_problem_of_their_line_and_what_served_goes_on(outside: Outside) -> None:
    await outside.put_file("requirements.txt", b"plain<2\n")
    await outside.put_file("flow.py", FLOW)
    view = await outside.put_file("requirements.txt", b"# both\nplain<2\nneedy\n")
    (problem,) = view.problems
    assert (problem.path, problem.line) == ("requirements.txt", 3)
    assert "absent" in problem.message
    assert await _result(outside) == "1.0"
    view = await outside.put_file("other.py", FLOW.replace(b"def version", b"def other"))
    assert view.workflows == ["other"]
    assert await _result(outside, "other") == "1.0"
    view = await outside.put_file("requirements.txt", b"plain>=2\n")
    assert view.problems == []
    assert await _result(outside) == "2.0"


async def test_a_project_s_dependencies_are_an_environment_as_well(outside: Outside) -> None:
    await outside.put_file("pyproject.toml", b"[project]\nname = 'flows'\ndependencies = ['plain==1.0']\n")
    assert (await outside.put_file("flow.py", FLOW)).problems == []
    assert await _result(outside) == "1.0"


async def test_two_workflows_of_one_workspace_have_different_versions_by_their_script_metadata(outside: Outside) -> None:
    await outside.put_file("requirements.txt", b"plain==1.0\n")
    for name, text in (("plainly", FLOW), ("newer", SCRIPT % b"2.0"), ("older", SCRIPT % b"1.0")):
        view = await outside.put_file(f"{name}.py", text.replace(b"def version", b"def " + name.encode()))
        assert (view.workflows, view.problems) == ([name], [])
    assert [await _result(outside, name) for name in ("plainly", "newer", "older")] == ["1.0", "2.0", "1.0"]
    view = await outside.put_file("twice.py", SCRIPT.replace(b"%s", b"2.0").replace(b"def version", b"def newer"))
    assert [(one.path, "already in newer.py" in one.message) for one in view.problems] == [("twice.py", True)]
    view = await outside.put_file("newer.py", (SCRIPT % b"3.0").replace(b"def version", b"def newer"))
    assert [(one.path, one.line) for one in view.problems if one.path == "newer.py"] == [("newer.py", 2)]
    assert await _result(outside, "newer") == "2.0"


async def test_what_packages_provide_is_no_warning_where_they_are_installed(outside: Outside) -> None:
    lazily = b"from millrace import workflow\n@workflow\ndef %s():\n    import plain, plain_too\n    import area.helper\n"
    await outside.put_file("area/helper.py", b"import absent\n")
    view = await outside.put_file("flow.py", lazily % b"one")
    messages = [(one.path, one.line, one.message.split(":")[0], one.severity) for one in view.problems]
    absent = ("area/helper.py", 1, "nothing provides the module absent", "warning")
    too = ("flow.py", 4, "nothing provides the module plain_too", "warning")
    assert messages == [absent, ("flow.py", 4, "nothing provides the module plain", "warning"), too]
    await outside.put_file("script.py", b"# /// script\n# dependencies = ['plain']\n# ///\n" + lazily % b"two")
    view = await outside.put_file("requirements.txt", b"plain\n")
    messages = [(one.path, one.line, one.message.split(":")[0], one.severity) for one in view.problems]
    # The helper is loaded by both, each with its own packages.
    assert messages == [absent, too, ("script.py", 7, too[2], "warning")]


async def test_a_change_of_code_alone_resolves_nothing(outside: Outside, links: Path) -> None:
    await outside.put_file("requirements.txt", b"plain\n")
    await outside.put_file("flow.py", FLOW)
    for path in links.iterdir():
        path.unlink()
    view = await outside.put_file("flow.py", FLOW.replace(b"plain.VERSION", b"plain.VERSION + '!'"))
    assert (view.workflows, view.problems) == (["version"], [])
    assert await _result(outside) == "2.0!"


async def test_a_run_whose_packages_are_gone_while_the_index_is_away_waits_and_goes_on_when_it_is_back(
    outside: Outside, links: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_messages, "PACKAGES_AGAIN", 1.0)
    await outside.put_file("requirements.txt", b"plain\n")
    await outside.put_file("flow.py", FLOW)
    (built,) = data.rglob("environments/built")
    for kept in (built, built.with_name("wheels")):
        for one in kept.iterdir():
            shutil.rmtree(one)
    links.rename(links.with_name("away"))
    run = await outside.request("version")
    waiting = await outside.run(run, "waiting")
    assert (waiting.blocked_on, waiting.error) == ("time", None)
    attempt = (await outside.bus.ask(ListAttempts(org="default", id=run))).items[0]
    assert attempt.status == "waiting"
    assert attempt.error is not None
    assert attempt.error.type == "PackagesMissing"
    assert "plain-2.0-py3-none-any.whl" in attempt.error.message
    links.with_name("away").rename(links)
    assert (await outside.run(run, "succeeded")).result == "2.0"


async def test_environments_are_shown_with_their_packages_and_built_anew_when_asked(outside: Outside, links: Path) -> None:
    held = links / "plain-2.0-py3-none-any.whl"
    held.rename(links / "away")
    await outside.put_file("requirements.txt", b"plain\n")
    await outside.put_file("flow.py", FLOW)
    await outside.put_file("own.py", (SCRIPT % b"1.0").replace(b"def version", b"def own"))
    shown = (await outside.bus.ask(ListEnvironments(org="default", locks=True))).items
    assert [(one.name, one.path, one.status, one.serves) for one in shown] == [
        ("workspace", "requirements.txt", "ready", True),
        ("own.py", "own.py", "ready", True),
    ]
    assert [(one.name, one.version) for one in shown[0].packages] == [("plain", "1.0")]
    assert shown[0].id == shown[1].id
    assert shown[0].files
    assert "sha256" in (shown[0].lock or "")
    assert (await outside.bus.ask(ListEnvironments(org="acme"))).items == []
    (links / "away").rename(held)
    done = await outside.bus.ask(BuildEnvironments(id=new_id(), org="default", actor="test"))
    assert (done.problems, done.building) == ([], False)
    assert await _result(outside) == "2.0"
    await outside.put_file("requirements.txt", b"plain\nneedy\n")
    (failed,) = [one for one in (await outside.bus.ask(ListEnvironments(org="default"))).items if one.status == "failed"]
    assert (failed.name, failed.problems[0].line, failed.serves) == ("workspace", 2, False)
    assert failed.problems[0].message.startswith("Because ")


async def _served(outside: Outside, result: str) -> None:
    """Wait until the workflow gives this."""

    async def is_there() -> bool:
        try:
            return await _result(outside) == result
        except NotFound:
            return False

    await eventually(is_there)


async def test_a_build_that_takes_longer_is_said_to_and_its_workflows_follow_also_after_a_restart(
    place: Place, data: Path, conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "GRACE", 0.0)
    monkeypatch.setattr(commits, "FILE_PATIENCE", 0.0)
    async with river(place, data, MILLRACE_PIP_CONF=conf) as outside:
        view = await outside.put_file("requirements.txt", b"plain<2\n")
        assert "is being built" in view.problems[0].message if view.problems else view.workflows == []
        await outside.put_file("flow.py", FLOW)
        await _served(outside, "1.0")
        await outside.put_file("requirements.txt", b"plain>=2\n")
    async with river(place, data, MILLRACE_PIP_CONF=conf) as outside:
        await _served(outside, "2.0")


async def test_what_was_asked_for_before_and_is_no_more_is_not_shown(outside: Outside) -> None:
    async def shown() -> list[tuple[str, str]]:
        return [(one.path, one.status) for one in (await outside.bus.ask(ListEnvironments(org="default"))).items]

    await outside.put_file("requirements.txt", b"plain<2\n")
    await outside.put_file("flow.py", FLOW)
    await outside.put_file("requirements.txt", b"plain<2\nneedy\n")
    await outside.put_file("requirements.txt", b"plain<2\n[\n")
    assert await shown() == [("requirements.txt", "ready"), ("requirements.txt", "failed")]
    await outside.put_file("own.py", (SCRIPT % b"7.0").replace(b"def version", b"def own"))
    assert ("own.py", "failed") in await shown()
    await outside.put_file("requirements.txt", b"plain<2\n")
    await outside.put_file("own.py", FLOW.replace(b"def version", b"def own"))
    assert await shown() == [("requirements.txt", "ready")]


async def test_the_password_of_an_index_is_a_secret_of_the_operators_that_is_audited_and_shown_nowhere(
    place: Place, data: Path, tmp_path: Path
) -> None:
    async with index_of(tmp_path / "packages") as index, running(place, "oauth"), buses(place) as (gateway, _, admin):
        wheel(index.folder, "plain", "1.0")
        index.wants = "reader:s3same"
        address = f"http://reader:${{secret:index.key}}@127.0.0.1:{index.port}/simple/"
        async with river(place, data, MILLRACE_INDEX_URL=address, MILLRACE_PIP_CONF="") as outside:
            await outside.put_file("flow.py", FLOW)
            with pytest.raises(Unavailable):
                await outside.put_file("requirements.txt", b"plain\n")
            kept = {"org": "global", "value": "s3same", "readers": "services", "actor": "key:k1"}
            await gateway.ask(resources.putting("secret", "index.key", ring(place), **kept))
            view = await outside.put_file("requirements.txt", b"plain<3\n")
            assert view.problems == []
            assert await _result(outside) == "1.0"
            view = await outside.put_file("requirements.txt", b"plain<3\nabsent-package\n")
            assert "s3same" not in repr(view.problems)
            assert "s3same" not in repr(await outside.bus.ask(ListEnvironments(org="default", locks=True)))
        assert f"Basic {base64.b64encode(b'reader:s3same').decode()}" in index.authorized
        records = [open_message(one, Audited) for one in await stored(admin, "AUDIT", 2)]
        found = [(one.actor, one.target, one.outcome, one.detail.get("run")) for one in records if one.verb == "given"]
        assert found == [("executor", "index.key", "not_found", None), ("executor", "index.key", "ok", None)]
    kept = [path for path in data.rglob("*") if path.is_file() and not path.is_symlink()]
    assert all(b"s3same" not in path.read_bytes() for path in kept)
