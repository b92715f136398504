"""The files that a child may see: the `millrace` package alone, an interpreter, and a scratch folder of its own."""

import compileall
import fcntl
import hashlib
import importlib.util
import os
import py_compile
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interpreter import copied, library_path

_NOT_FOR_CHILDREN = ("cli", "cli.py", "__pycache__")


@dataclass(frozen=True)
class Identity:
    """The user and group of a child; None when the supervisor is not root and children share its user."""

    uid: int
    gid: int


@dataclass
class Ground:
    """The files that children stand on. `package` holds only `millrace`; `scratch` is this supervisor's and goes with it."""

    interpreter: Path
    libraries: str | None
    """The folder of a copied interpreter's shared library; None for one that stands where it was installed."""
    package: Path
    boot: Path
    scratch: Path
    code: Path
    """The folder that all bundles and their environments lie below."""
    lock: int
    """An open descriptor: while it is held, no other supervisor on the same folder clears `scratch`."""
    numbers: "count[int]" = field(default_factory=count)

    def scratch_for_child(self, who: Identity | None) -> Path:
        """Make a folder that only the child's user can enter."""
        folder = self.scratch / str(next(self.numbers))
        folder.mkdir(mode=0o700)
        if who is not None:
            os.chown(folder, who.uid, who.gid)
        return folder

    def leave(self) -> None:
        """Remove the scratch folder."""
        remove(self.scratch)
        os.close(self.lock)


def prepare(data: Path, code: Path, interpreter: Path | None, who: Identity | None) -> Ground:
    """Lay out `data` (made if missing) and check that a child can reach all of it. Raises `SandboxUnavailable`."""
    if not hasattr(os, "pidfd_open"):
        msg = f"children are watched by pidfd, which this {sys.platform} does not have: use Linux 5.3 or newer"
        raise SandboxUnavailable(msg)
    data = data.absolute()
    data.mkdir(mode=0o755, parents=True, exist_ok=True)
    require_reach(data, who, "the executor's folder")
    python, libraries = _interpreter(data, interpreter, who)
    package = _copy_of_sdk(data)
    boot = package / "millrace" / "_runtime" / "boot.py"
    require_reach(boot, who, "the millrace package for sandboxed runs")
    scratch, lock = _own_scratch(data)
    return Ground(
        interpreter=python, libraries=libraries, package=package, boot=boot, scratch=scratch, code=code.resolve(), lock=lock
    )


def _interpreter(data: Path, given: Path | None, who: Identity | None) -> tuple[Path, str | None]:
    """Return an interpreter within reach: the given one, our own, or a copy of our own."""
    if given is not None:
        require_reach(given.resolve(), who, "the Python interpreter")
        return given.resolve(), None
    own = Path(sys.executable).resolve()
    try:
        require_reach(own, who, "the Python interpreter")
        require_reach(Path(os.__file__).resolve(), who, "Python's standard library")
    except SandboxUnavailable:
        copy = copied(data)
        require_reach(copy, who, "the copy of the Python interpreter")
        return copy, library_path(copy)
    return own, None


def require_reach(path: Path, who: Identity | None, what: str) -> None:
    """Check by mode bits that the child's user can get to `path`. Raises `SandboxUnavailable`, naming the obstacle."""
    if who is None:
        return
    for step in [*reversed(path.parents), path]:
        status = step.stat()
        need = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
        if status.st_uid == who.uid:
            need <<= 6
        elif status.st_gid == who.gid:
            need <<= 3
        if not status.st_mode & need:
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "file"
            msg = (
                f"{what} ({path}) is out of reach for the sandbox's user {who.uid}: the {kind} {step} has mode "
                f"{stat.S_IMODE(status.st_mode):04o}. Put it somewhere that every user can read, or chmod o+"
                f"{'x' if kind == 'folder' else 'r'} {step}"
            )
            raise SandboxUnavailable(msg)


def remove(folder: Path) -> None:
    """Remove a folder that an adversary filled. Follows no symlink; a missing entry is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_empty(folder: Path) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _copy_of_sdk(data: Path) -> Path:
    """Copy the package once per content and Python version, compiled, and answer the folder that holds it."""
    found = importlib.util.find_spec("millrace")
    if found is None or not found.submodule_search_locations:
        msg = "the millrace package is not installed beside the executor"
        raise SandboxUnavailable(msg)
    source = Path(found.submodule_search_locations[0])
    content = hashlib.sha256(sys.implementation.cache_tag.encode())
    for path in sorted(source.rglob("*.py")):
        if not any(part in _NOT_FOR_CHILDREN for part in path.relative_to(source).parts):
            content.update(f"\0{path.relative_to(source)}\0".encode() + path.read_bytes())
    target = data / f"sdk-{content.hexdigest()[:16]}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(dir=data, prefix=".sdk-"))
        shutil.copytree(source, fresh / "millrace", ignore=shutil.ignore_patterns(*_NOT_FOR_CHILDREN))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(fresh, quiet=2, invalidation_mode=mode, stripdir=fresh)
        for path in [fresh, *fresh.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        try:
            fresh.rename(target)
        except OSError:  # another executor was first with the same content
            shutil.rmtree(fresh)
    return target


def _own_scratch(data: Path) -> tuple[Path, int]:
    """Make this supervisor's folder, and clear those of supervisors that are gone."""
    parent = data / "scratch"
    parent.mkdir(mode=0o711, exist_ok=True)
    gate = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for left in parent.iterdir():
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(left)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        scratch = Path(tempfile.mkdtemp(dir=parent))
        scratch.chmod(0o711)
        lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return scratch, lock
    finally:
        os.close(gate)
