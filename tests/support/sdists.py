"""Source distributions that build themselves, by a backend that needs no other package."""

import io
import tarfile
import textwrap
from pathlib import Path

BACKEND = """
import base64, hashlib, json, os, sys, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, version = {name!r}, {version!r}
    files = {{f"{{name}}.py": None, f"{{name}}-{{version}}.dist-info/METADATA": {metadata!r}}}
    files[f"{{name}}-{{version}}.dist-info/WHEEL"] = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{{name}}.py"] = found()
    file = f"{{name}}-{{version}}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, file), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{{name}}-{{version}}.dist-info/RECORD", "".join(f"{{path}},,\\n" for path in files))
    return file

def found():
    return "VERSION = " + repr({version!r}) + "\\n"

"""


def sdist(
    links: Path,
    name: str,
    version: str = "1.0",
    *,
    backend: str = "",
    requires: tuple[str, ...] = (),
    build_requires: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
) -> Path:
    """Write a source distribution with a backend of its own; `backend` is appended to that."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {one}\n" for one in requires)
    metadata += "".join(f"Provides-Extra: {one}\n" for one in extra)
    system = f'[build-system]\nrequires = {list(build_requires)!r}\nbuild-backend = "own"\nbackend-path = ["."]\n'
    text = BACKEND.format(name=name, version=version, metadata=metadata) + textwrap.dedent(backend)
    contents = {"pyproject.toml": system, "own.py": text, "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
    return archive_of(links / f"{name}-{version}.tar.gz", contents)


def archive_of(path: Path, contents: dict[str, str]) -> Path:
    """Write a source distribution of these files, below a folder of its name."""
    with tarfile.open(path, "w:gz") as archive:
        for file, content in contents.items():
            member = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{file}")
            data = content.encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.chmod(0o644)
    return path
