"""Gets a pack: from a folder of this machine, or from a git repository by the user's own `git`, whose credentials it has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

# What git calls an address: with a scheme, or `user@host:path`.
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|[\w.-]+@[\w.-]+:", re.IGNORECASE)
# No hook or template of anybody's is run, and no other program by an address (`ext::`).
_CAREFUL = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "advice.detachedHead=false")
# By these a hook of another repository has git work there.
_ELSEWHERE = {
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "INDEX_FILE", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX",
        "SHALLOW_FILE", "WORK_TREE",
    )
}  # fmt: skip


@contextmanager
def fetched(source: str, *, ref: str | None, folder: str | None) -> Iterator[tuple[Path, str]]:
    """Give the block the folder of a pack, and where it comes from: a folder, or a repository at a branch, tag or commit.

    `folder` is the pack's folder there. Raises `click.UsageError` for what cannot be had.
    """
    if not _REMOTE.match(source) or Path(source).exists():
        if ref is not None:
            raise click.UsageError("--ref is for the address of a git repository.")
        place = Path(source)
        if not place.is_dir():
            raise click.UsageError(f"{source} is no folder, and no address of a git repository.")
        inside = _inside(place, folder)
        yield inside, str(inside.resolve())
        return
    try:
        parts = urlsplit(source if "://" in source else "")
    except ValueError as error:
        raise click.UsageError(f"that is no address: {error}.") from error
    # A token takes the place of a user's name where no password is asked for.
    if parts.password is not None or (parts.username is not None and parts.scheme.startswith("http")):
        raise click.UsageError("an address with a user or a password would be recorded: leave it to git's credential helper.")
    if ref is not None and ref.startswith("-"):
        raise click.UsageError(f"{ref!r} is no branch, tag or commit.")
    with tempfile.TemporaryDirectory(prefix="millrace-pack-") as made:
        place = Path(made)
        _git(place, "init", "--quiet", "--template=")
        _git(place, "fetch", "--quiet", "--depth=1", "--no-tags", "--", source, ref or "HEAD")
        _git(place, "checkout", "--quiet", "FETCH_HEAD")
        commit = _git(place, "rev-parse", "HEAD").strip()
        shutil.rmtree(place / ".git")
        yield _inside(place, folder), " ".join((source, *([folder] if folder else []), commit))


def _inside(place: Path, folder: str | None) -> Path:
    found = place / (folder or "")
    if not found.resolve().is_relative_to(place.resolve()):
        raise click.UsageError(f"--folder {folder} leads out of it.")
    return found


def _git(place: Path, *arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        raise click.UsageError("the program git is not installed: clone the repository elsewhere, and give its folder.")
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | {"GIT_LFS_SKIP_SMUDGE": "1"}
    done = subprocess.run([program, *_CAREFUL, *arguments], cwd=place, env=environment, check=False, capture_output=True)
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise click.UsageError(f"git {arguments[0]}: {said[:500] or f'ended with {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")
