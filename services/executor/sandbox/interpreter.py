"""An interpreter that the children's user can read, where that of this process lies in a closed home folder."""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

# Files that no child needs: packages of the installation (each environment brings its own), tests, and things for building.
_LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "ensurepip", "turtledemo", "config-*", "*.a")


def copied(data: Path) -> Path:
    """Return the executable of a private copy of this interpreter and its standard library under `data`, made once.

    Files are linked, not copied, where the file system allows. The copy finds its library by its own place.
    """
    version = "{}.{}".format(*sys.version_info[:2])
    base = Path(sys.base_prefix).resolve()
    stamp = int(Path(os.__file__).stat().st_mtime)
    target = data / f"python-{version}.{sys.version_info[2]}-{stamp:x}"
    executable = target / "bin" / f"python{version}"
    if executable.exists():
        return executable
    fresh = Path(tempfile.mkdtemp(dir=data, prefix=".python-"))
    library = Path(sysconfig.get_path("stdlib")).resolve()
    shutil.copytree(library, fresh / library.relative_to(base), ignore=_LEFT_OUT, copy_function=link_or_copy)
    (fresh / "bin").mkdir()
    shutil.copy2(Path(sys.executable).resolve(), fresh / "bin" / f"python{version}")
    for shared in (base / "lib").glob("libpython*.so*"):
        link_or_copy(str(shared.resolve()), str(fresh / "lib" / shared.name))
    for path in [fresh, *fresh.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    try:
        fresh.rename(target)
    except OSError:  # another executor was first with the same interpreter
        shutil.rmtree(fresh)
    return executable


def library_path(executable: Path) -> str | None:
    """Return the folder of a shared libpython beside a copied interpreter, for LD_LIBRARY_PATH; None where there is none."""
    folder = executable.parent.parent / "lib"
    return str(folder) if any(folder.glob("libpython*.so*")) else None


def link_or_copy(source: str, target: str) -> None:
    """Have a file that every user can read appear at another place as well; copied where it cannot be linked."""
    if Path(source).stat().st_mode & 0o004:
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target)
    Path(target).chmod(0o644)
