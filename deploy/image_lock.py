"""`python deploy/image_lock.py`: print what of requirements.lock the image needs: the packages of Millrace itself, and no tools.

The lock says of each package what wants it ("via"). Standard library only: it runs before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def needed(lock: str, direct: set[str]) -> str:
    """Return the entries of a lock for `direct` packages and for all that these want, in any number of steps."""
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)
    wanting = {
        _name(entry): set(re.findall(r"^    #(?: via)? +([a-z0-9._-]+)", entry, flags=re.MULTILINE)) for entry in entries[1:]
    }
    found = direct & wanting.keys()
    while more := {name for name, parents in wanting.items() if parents & found} - found:
        found |= more
    return "".join(entry for entry in entries[1:] if _name(entry) in found)


def pinned(root: Path, *extras: str) -> str:
    """Return the entries of a source tree's lock for what Millrace and these of its extras need."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    return needed((root / "requirements.lock").read_text(), {_name(one) for one in wanted})


def _name(entry: str) -> str:
    """Return the name of a package as locks have it, without extras and versions."""
    match = re.match(r"[A-Za-z0-9._-]+", entry)
    return "" if match is None else re.sub(r"[-_.]+", "-", match[0]).lower()


def main() -> None:
    """Print it."""
    sys.stdout.write(pinned(ROOT, "build"))


if __name__ == "__main__":
    main()
