"""The SDK as a wheel of its own, `millrace-sdk`: what workflows and their tests import, with types, and no other package.

It is made of the package that is installed here, so that it always is of the command's own version, and no index is asked.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

# The command, which needs other packages, is of the distribution `millrace` alone.
LEFT_OUT = frozenset({"cli", "__pycache__"})
METADATA = """\
Metadata-Version: 2.1
Name: millrace-sdk
Version: {version}
Summary: For authors of Millrace workflows: decorators, steps, testing; typed.
License: Apache-2.0
Requires-Python: >=3.11
"""
WHEEL = """\
Wheel-Version: 1.0
Generator: millrace
Root-Is-Purelib: true
Tag: py3-none-any
"""


def name(version: str) -> str:
    """Return the name of the wheel's file (PEP 427)."""
    return f"millrace_sdk-{version}-py3-none-any.whl"


def write(folder: Path, package: Path, version: str) -> Path:
    """Write the wheel of the package `millrace`, which is at `package`; the same package makes the same bytes."""
    information = f"millrace_sdk-{version}.dist-info"
    contents = {
        f"millrace/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and LEFT_OUT.isdisjoint(path.relative_to(package).parts)
    }
    contents[f"{information}/METADATA"] = METADATA.format(version=version).encode()
    contents[f"{information}/WHEEL"] = WHEEL.encode()
    lines = [f"{path},{_digest(content)},{len(content)}" for path, content in contents.items()]
    contents[f"{information}/RECORD"] = "\n".join([*lines, f"{information}/RECORD,,", ""]).encode()
    wheel = folder / name(version)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in contents.items():
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return wheel


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
