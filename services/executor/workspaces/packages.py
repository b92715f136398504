"""The environments that a workspace's code is to have: one for all of it, and one for each file that asks for its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from services.executor.environments.builds import Builds, Locked, NotBuiltYet
from services.executor.environments.environments import Failed
from services.executor.environments.requirements import (
    MOST_BYTES,
    PROJECT,
    REQUIREMENTS,
    Requirements,
    of_project,
    of_script,
    of_text,
)
from shared.messages.catalog import FileProblem

WORKSPACE = ""
"""Names the environment of all files that have none of their own; others are named by their file."""

MOST_ENVIRONMENTS = 50
"""Different ones of a workspace."""


class PackagesDeps(Protocol):
    """Dependencies of environments."""

    builds: Builds


class Chosen(msgspec.Struct, frozen=True):
    """Environments by the file that they are for. `problems` keep some from being there; `broken` files ask for what cannot be.

    `keys` are of all requirements, whether they can be had or not.
    """

    environments: dict[str, Locked]
    problems: list[FileProblem]
    broken: set[str]
    keys: set[str]
    is_building: bool = False

    def of(self, path: str) -> Locked | None:
        """Return the environment of a file."""
        return of(self.environments, path)


def of(environments: Mapping[str, Locked], path: str) -> Locked | None:
    """Return the environment that a file's code is run with."""
    return environments.get(path, environments.get(WORKSPACE))


async def chosen(
    org: str, tree: dict[str, str], folder: Path, active: Mapping[str, Locked], changed: Collection[str], deps: PackagesDeps
) -> Chosen:
    """Return the environments of a tree, which lies in `folder`; those that serve and are asked for unchanged stay as they are.

    Raises `Unavailable`.
    """
    wanted = await asyncio.to_thread(_wanted, tree, folder)
    found: dict[str, Locked] = {}
    problems: list[FileProblem] = []
    broken: set[str] = set()
    is_building = False
    for place, requirements in wanted.items():
        known = active.get(place)
        if known is not None and known.requirements == requirements.key and not requirements.problems:
            found[place] = known
            continue
        again = bool(changed) and requirements.path in changed
        try:
            found[place] = await deps.builds.locked(org, requirements, again=again)
        except NotBuiltYet as building:
            is_building = True
            problems.append(FileProblem(requirements.path, 1, building.job.words))
        except Failed as error:
            problems += error.problems
            broken |= {requirements.path, *(one.path for one in error.problems)}
    return Chosen(found, problems, broken, {requirements.key for requirements in wanted.values()}, is_building)


def _wanted(tree: dict[str, str], folder: Path) -> dict[str, Requirements]:
    """Return what is asked for, by the file that it is for."""

    def read(path: str) -> str | None:
        if path not in tree:
            return None
        with (folder / path).open("rb") as file:
            return file.read(MOST_BYTES + 1).decode("utf-8-sig", "replace")

    found: dict[str, Requirements] = {}
    text = read(REQUIREMENTS)
    if text is not None:
        found[WORKSPACE] = of_text(REQUIREMENTS, text, read)
    elif (text := read(PROJECT)) is not None and (project := of_project(PROJECT, text)) is not None:
        found[WORKSPACE] = project
    if WORKSPACE in found and not found[WORKSPACE].wanted and not found[WORKSPACE].problems:
        del found[WORKSPACE]
    keys = {requirements.key for requirements in found.values()}
    for path in tree:
        if path.endswith(".py") and (text := read(path)) is not None and (script := of_script(path, text)) is not None:
            if len(keys) >= MOST_ENVIRONMENTS and script.key not in keys:
                complaint = f"the files of the workspace ask for more than {MOST_ENVIRONMENTS} environments: let some share one"
                script = Requirements(path, problems=(FileProblem(path, 1, complaint),))
            else:
                keys.add(script.key)
            found[path] = script
    return found
