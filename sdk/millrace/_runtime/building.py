"""Carries out one step of building an environment. Only ever in a child of a building zygote.

The child's folder is the only place that it can write to. Resolving and fetching have a way to the package indexes and execute
nothing that came from there. Unpacking has no way out, and is believed about the one wheel that it unpacked only. Steps of source
distributions are in `sources`. A look at a repository of git, or a push to one, is not of an environment, and as apart: its code
comes with the job.
"""

import importlib
import os
import resource
import subprocess
import sys
import tempfile
from typing import Any

from millrace._runtime import fetching, sources, unpacking

_SAID = 20_000
"""Characters of a program's words that are kept, its last ones: a resolver says at its end why it gave up."""

_PASSED = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


def done(folder: str, job: dict[str, Any], packages: str | None) -> dict[str, Any]:
    """Carry a step out in a folder; answer its findings. `packages` are those that a build requires. Raises OSError, ValueError."""
    largest = job["most_bytes"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if job["step"] == "open":
        return sources.opened(folder)
    if job["step"] == "hook":
        return sources.called(folder, job, packages)
    tempfile.tempdir = os.path.join(folder, "tmp")
    os.environ["TMPDIR"] = tempfile.tempdir
    os.makedirs(tempfile.tempdir, exist_ok=True)
    os.chdir(folder)
    if job["step"] == "repository":
        sys.path.append(job["libraries"])
        found: dict[str, Any] = importlib.import_module("repository_inside").done(folder, job)
        return found
    if job["step"] == "resolve":
        return _resolved(folder, job)
    if job["step"] == "fetch":
        return fetching.fetched(job)
    return unpacking.unpacked(folder, job)


def _resolved(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Have `uv` write `pylock.toml`; answer its exit code and its words."""
    for name in ("requirements.in", "constraints.txt", "uv.toml"):
        with open(name, "w", encoding="utf-8") as file:
            file.write(job[name])
    command = [
        *(job["uv"], "pip", "compile", "requirements.in", "--constraint", "constraints.txt", "--output-file", "pylock.toml"),
        *("--format", "pylock.toml", "--no-header", "--config-file", "uv.toml", "--no-progress", "--color", "never", "--quiet"),
        *("--only-binary", ":all:", "--no-sources", "--no-python-downloads", "--python", job["python"]),
        *("--cache-dir", os.path.join(folder, "cache"), "--upgrade"),
        *(() if job["has_index"] else ("--no-index",)),
        *(option for name in job["sdists"] for option in ("--no-binary", name)),
    ]
    # Addresses of indexes may hold passwords, and a command line is no secret.
    environment = {
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or name in _PASSED},
        "HOME": folder,
        "UV_CONCURRENT_DOWNLOADS": "16",
        "UV_HTTP_TIMEOUT": str(job["patience"]),
        "UV_NO_ENV_FILE": "1",
        **job["environment"],
    }
    with tempfile.TemporaryFile() as said:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
        size = said.tell()
        said.seek(max(0, size - 4 * _SAID))
        words = said.read().decode("utf-8", "replace")[-_SAID:]
    return {"code": code, "said": words}
