"""`millrace dev init`: a workspace that an author can install, test and type-check without a server and without Millrace itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from millrace.cli import codes, main, sdk_wheel
from tests.support.sandbox import UID, reachable_interpreter, started_bench
from tests.support.stack import ROOT

# Of the test runner: the tests of a new workspace need nothing else.
RUNNER = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")


@pytest.fixture
def workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path / "a new" / "workspace"
    assert main(["dev", "init", str(folder), "--output", "json"]) == codes.DONE
    made = json.loads(capsys.readouterr().out)["files"]
    assert {"AGENTS.md", "flows/greet.py", "tests/test_greet.py", "requirements.txt", ".gitignore", ".vscode/settings.json"} <= set(
        made
    )
    return folder


def command(*words: str | Path, of: Path, **environment: str) -> str:
    ended = subprocess.run(
        [str(word) for word in words],
        cwd=of,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_its_tests_and_types_hold_in_a_fresh_environment_that_has_the_sdk_alone(workspace: Path, tmp_path: Path) -> None:
    environment, runner = workspace / ".venv", tmp_path / "runner"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    wanted = [line for line in (workspace / "requirements-dev.txt").read_text().splitlines() if line.startswith("./")]
    # No index is asked: the wheel is in the workspace, and wants no other package.
    command(*pip, "install", "--quiet", "--no-index", *wanted, of=workspace)
    runner.mkdir()
    for name in RUNNER:
        origin = importlib.util.find_spec(name)
        assert origin is not None
        place = Path(origin.submodule_search_locations[0] if origin.submodule_search_locations else str(origin.origin))
        (runner / place.name).symlink_to(place)
    said = command(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", of=workspace, PYTHONPATH=str(runner))
    assert "2 passed" in said
    where = command(python, "-c", "import millrace, sys; print(millrace.__file__, end='')", of=workspace)
    assert Path(where) == next(environment.glob("lib/*/site-packages/millrace/__init__.py"))
    assert "Success" in command(sys.executable, "-m", "mypy", "--python-executable", python, of=workspace)
    broken = (workspace / "flows" / "greet.py").read_text().replace("timeout=60", 'timeout="60"')
    (workspace / "flows" / "greet.py").write_text(broken)
    with pytest.raises(AssertionError, match="timeout"):
        command(sys.executable, "-m", "mypy", "--python-executable", python, of=workspace)


def test_a_folder_with_anything_but_a_repository_is_refused_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "note.txt").write_text("mine")
    assert main(["dev", "init", str(tmp_path)]) == codes.USAGE
    assert "is not empty: it has note.txt" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "note.txt"]
    assert main(["dev", "init", str(tmp_path / "note.txt")]) == codes.USAGE
    assert "is a file" in capsys.readouterr().err
    (tmp_path / "note.txt").unlink()
    assert main(["dev", "init", str(tmp_path)]) == codes.DONE


def test_the_wheel_has_the_sdk_without_the_command_and_is_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    one, other = (sdk_wheel.write(folder, ROOT / "sdk" / "millrace", "1.2.3") for folder in (tmp_path, tmp_path / "again"))
    assert one.read_bytes() == other.read_bytes()
    names = zipfile.ZipFile(one).namelist()
    assert {"millrace/py.typed", "millrace/testing/__init__.py", "millrace_sdk-1.2.3.dist-info/METADATA"} <= set(names)
    assert not [name for name in names if name.startswith("millrace/cli") or "__pycache__" in name]
    found = importlib.metadata.PathDistribution(zipfile.Path(one, "millrace_sdk-1.2.3.dist-info/"))  # type: ignore[arg-type]
    assert (found.metadata["Name"], found.version, found.requires) == ("millrace-sdk", "1.2.3", None)


@pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")
async def test_its_workflow_is_found_without_problems_or_warnings(workspace: Path) -> None:
    async with started_bench() as bench:
        files = {path: path.relative_to(workspace).with_suffix("").as_posix() for path in workspace.rglob("*.py")}
        found = await bench.describe(**{name.replace("/", "__"): path.read_text() for path, name in files.items()})
    assert (found.problems, found.warnings) == ([], [])
    (greet,) = found.workflows
    assert (greet.name, greet.input_schema["properties"]["loud"]["description"]) == ("greet", "Greet in capitals.")
