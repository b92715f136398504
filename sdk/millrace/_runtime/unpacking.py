"""Unpacks one wheel, checks each of its entries, and compiles its modules; executes nothing of it."""

import email.parser
import importlib.machinery
import importlib.util
import marshal
import os
import stat
import sys
import warnings
import zipfile
from typing import Any

TREE = "tree"
"""The folder, beside the file `wheel`, that its content goes to."""
_CHUNK = 1 << 20
_TESTS = frozenset({"test", "tests"})
_WORKERS, _FEW = 4, 100
"""Processes that compile, and modules for which another is worth it."""
_UNCHECKED = (0b01).to_bytes(4, "little")
"""Marks bytecode as never to be compared with its source (PEP 552): an environment does not change."""
_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_OURS = frozenset({"millrace", "sitecustomize", "usercustomize", "__main__"})
_PART_BYTES, _PATH_BYTES = 255, 1024
_HARMLESS = ("import sys, types, os;has_mfs = sys.version_info", "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; ")
"""How the lines begin by which old namespace packages and setuptools help themselves at start: both do without."""


class Refused(Exception):
    """A wheel that is not installed; the message names the file in it."""


def unpacked(folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Unpack the file `wheel` into `tree`; answer the files and bytes there, and what was left out, or the problem.

    If asked, also `described`: the requirements, extras and Python of the wheel, by its metadata.
    """
    found = _Unpacking(os.path.join(folder, TREE), job["most_bytes"], job["most_files"])
    try:
        with zipfile.ZipFile(os.path.join(folder, "wheel")) as wheel:
            found.unpack(wheel)
        found.compile()
        described = _described(os.path.join(folder, TREE)) if job.get("describes") else None
    except Refused as error:
        return {"problem": str(error)}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, OSError) as error:
        return {"problem": f"it cannot be unpacked: {error}"[:1000]}
    left_out = found.left_out[:100]
    return {"problem": None, "files": found.files, "bytes": found.bytes, "left_out": left_out, "described": described}


class _Unpacking:
    def __init__(self, tree: str, most_bytes: int, most_files: int) -> None:
        self.files = self.bytes = 0
        self.left_out: list[str] = []
        self._tree = tree
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._modules: list[str] = []

    def unpack(self, wheel: zipfile.ZipFile) -> None:
        """Write all entries that are for an environment. Raises `Refused`."""
        os.mkdir(self._tree)
        places: dict[str, zipfile.ZipInfo] = {}
        for entry in wheel.infolist():
            _check(entry)
            if entry.is_dir():
                continue
            place = _place(entry.filename)
            if place is None or _is_bytecode(place):
                self.left_out.append(entry.filename)
                continue
            if place in places:
                raise Refused(f"{shown(entry.filename)} is in it twice")
            places[place] = entry
            if len(places) > self._most_files:
                raise Refused(f"it has more than {self._most_files} files")
        for place, entry in places.items():
            _check_name(place)
            if place.endswith(".pth") and "/" not in place:
                _check_hook(place, wheel, entry)
                self.left_out.append(place)
                continue
            self._write(place, wheel, entry)

    def compile(self) -> None:
        """Lay the bytecode of each module where Python looks for it; one that cannot be compiled has none."""
        warnings.simplefilter("ignore")
        # Nobody imports a package's tests, which are half of some.
        modules = [place for place in self._modules if _TESTS.isdisjoint(place.split("/")[:-1])]
        workers = min(_WORKERS, len(os.sched_getaffinity(0)), 1 + len(modules) // _FEW)
        forks = []
        for number in range(1, workers):
            fork = os.fork()
            if fork == 0:
                code = 1
                try:
                    self._compile(modules[number::workers])
                    code = 0
                finally:
                    os._exit(code)
            forks.append(fork)
        self._compile(modules[::workers])
        if any([os.waitpid(fork, 0)[1] for fork in forks]):  # noqa: C419 - of each
            raise OSError("the bytecode of some modules could not be made or written")

    def _compile(self, modules: list[str]) -> None:
        for place in modules:
            path = os.path.join(self._tree, place)
            with open(path, "rb") as file:
                source = file.read()
            try:
                code = compile(source, path, "exec", dont_inherit=True)
                data = marshal.dumps(code)
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
                continue
            target = importlib.util.cache_from_source(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source) + data)

    def _write(self, place: str, wheel: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        target = os.path.join(self._tree, place)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with wheel.open(entry) as packed, open(target, "xb") as file:
                while part := packed.read(_CHUNK):
                    self._count(len(part), place)
                    file.write(part)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise Refused(f"{shown(place)} is a file and a folder in it") from None
        self.files += 1
        if place.endswith(".py"):
            self._modules.append(place)

    def _count(self, more: int, place: str) -> None:
        self.bytes += more
        if self.bytes > self._most_bytes:
            raise Refused(f"with {shown(place)} it has more than {self._most_bytes} bytes")


def _described(tree: str) -> dict[str, Any]:
    """Answer the metadata of a wheel that is of use for resolving. Raises `Refused`."""
    found = [name for name in os.listdir(tree) if os.path.isfile(os.path.join(tree, name, "METADATA"))]
    if len(found) != 1:
        raise Refused("it has not just one METADATA")
    with open(os.path.join(tree, found[0], "METADATA"), encoding="utf-8") as file:
        head = email.parser.HeaderParser().parsestr(file.read(_CHUNK))
    python = head.get("Requires-Python")
    return {
        "requires": head.get_all("Requires-Dist", []),
        "extras": head.get_all("Provides-Extra", []),
        "python": None if python is None else str(python),
    }


def shown(name: str) -> str:
    """Answer a name as a sentence quotes it."""
    return ascii(name[:200])


def _check(entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that is not a plain file or folder at a plain place."""
    name = entry.filename
    # What the archive says, before zipfile has made it look better.
    told = entry.orig_filename
    for one in (name, told):
        parts = one.removesuffix("/").split("/")
        if one.startswith(("/", "\\")) or ".." in parts or "\\" in one or (len(one) > 1 and one[1] == ":"):
            raise Refused(f"{shown(told)} leads out of the environment")
        if "" in parts or "." in parts or "\0" in one or not one.isprintable():
            raise Refused(f"{shown(told)} is no name of a file in a wheel")
        if len(one.encode("utf-8", "replace")) > _PATH_BYTES or any(
            len(part.encode("utf-8", "replace")) > _PART_BYTES for part in parts
        ):
            raise Refused(f"{shown(told)} is too long a name")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise Refused(f"{shown(name)} is a link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(f"{shown(name)} is no plain file")
    if entry.flag_bits & 1:
        raise Refused(f"{shown(name)} is encrypted")


def _place(name: str) -> str | None:
    """Answer where in an environment an entry goes; None for one that has no use there, such as a script (PEP 427)."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    scheme, _, place = rest.partition("/")
    return place if scheme in ("purelib", "platlib", "data") and place else None


def _is_bytecode(place: str) -> bool:
    """Answer whether it is bytecode beside a source: that is made here, of the source that people can read."""
    return "__pycache__" in place.split("/")


def _check_name(place: str) -> None:
    """Refuse what would hide, or be hidden by, a module of Python or of the platform."""
    top, _, rest = place.partition("/")
    name = top if rest else next((top.removesuffix(suffix) for suffix in _SUFFIXES if top.endswith(suffix)), None)
    if name is None or (rest and name.endswith((".dist-info", ".egg-info"))):
        return
    name = name.partition(".")[0]
    if name in _OURS:
        raise Refused(f"{shown(place)} has a name of the platform's own: {name}")
    if name in sys.stdlib_module_names:
        raise Refused(f"{shown(place)} has a name of Python's own: {name}")


def _check_hook(place: str, wheel: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    if entry.file_size > _CHUNK:
        raise Refused(f"{shown(place)} is too large")
    for line in wheel.read(entry).decode("utf-8", "replace").splitlines():
        if line.startswith(("import ", "import\t")) and not line.startswith(_HARMLESS):
            raise Refused(f"{shown(place)} would execute code at every start of Python")
