"""What the pages show, whether it is run or not, is there: commands with their options, endpoints; Python and YAML can be read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from millrace.cli.program import program
from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import path_of
from tests.reference.commands import BECOMES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^ *```([a-z]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_CALL = re.compile(r"\b(GET|PUT|POST|PATCH|DELETE) (/api/[A-Za-z0-9_{}/.\-]+)")
# What stands for anything in a command, and what shells make of a line.
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", ")"}


def blocks(page: Path, *languages: str) -> list[str]:
    return [block for language, block in _BLOCK.findall(page.read_text("utf-8")) if language in languages]


def calls(page: Path) -> Iterator[list[str]]:
    """Return the arguments of each call of the command in a page's blocks."""
    for block in blocks(page, "", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.search(r"(^|[\s;|&])millrace [a-z]", line.split(" # ")[0]) or not re.match(
                r"^(\$ |[A-Za-z\"'])", line.strip()
            ):
                continue
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = [*lexer]
            for start, word in enumerate(words):
                begins = not start or words[start - 1] in _ENDS or "=" in words[start - 1]
                if word == "millrace" and begins:
                    end = next((at for at in range(start, len(words)) if words[at] in _ENDS or words[at].endswith(";")), len(words))
                    yield words[start + 1 : end]


def misfit(arguments: list[str]) -> str | None:
    """Return what is wrong with a call, by the command's declarations alone: no option or argument is looked at further."""
    command: click.Command = program
    left = arguments
    while isinstance(command, click.Group) and left and left[0] not in {"-h", "--help"}:
        try:
            # A group may put in the verb that is left out.
            context = command.make_context("millrace", [*left])
            name, found, left = command.resolve_command(context, [*context._protected_args, *context.args])
        except click.UsageError as error:
            return str(error)
        command = BECOMES.get(str(name), found or program) if command is program else found or program
    try:
        command.make_context("millrace", [*left], resilient_parsing=False).close()
    except (click.NoSuchOption, click.MissingParameter, click.BadOptionUsage) as error:
        return str(error)
    except click.UsageError as error:
        return str(error) if "extra argument" in str(error) else None
    except (click.exceptions.Exit, click.ClickException, OSError):
        return None
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    assert [(" ".join(one), wrong) for one in calls(page) if (wrong := misfit(one)) is not None] == []


def test_a_command_that_is_none_is_found() -> None:
    assert "gett" in str(misfit(["runs", "gett"]))
    assert "--wat" in str(misfit(["run", "sync", "--wat"]))
    assert misfit(["up", "--replicas", "2"]) is None
    assert sum(1 for page in PAGES for _ in calls(page)) > 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_endpoint_that_is_shown_is_one(page: Path) -> None:
    there = {(one.method, re.sub(r"\{[^}]*\}", "{}", path_of(one))) for one in ENDPOINTS}
    patterns = [(method, re.compile(re.escape(path).replace(r"\{\}", ".+"))) for method, path in there]
    missing = []
    for method, path in _CALL.findall(page.read_text("utf-8")):
        given = path.rstrip("./")
        if not any(by in {method, "*"} and pattern.fullmatch(given) for by, pattern in patterns):
            missing.append(f"{method} {given}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_and_yaml_can_be_read(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for block in blocks(page, "yaml"):
        assert [*yaml.safe_load_all(block)]
