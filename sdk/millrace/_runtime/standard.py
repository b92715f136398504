"""Modules of Python itself that a bundle imports, loaded in its template: a run would spend ten times its own time on some.

They are found by the text of the bundle's files, which is searched and never parsed: a parser can be fooled, and a name that is
found for nothing costs little. Only modules are loaded that do nothing but define: none that starts a thread, opens a file, or
draws random numbers to keep.
"""

import importlib
import importlib.machinery
import os
import re
import sys
import threading

_MOST_FILES = 64
_MOST_BYTES = 256 * 1024
"""Of one file that are searched."""
_IMPORT = re.compile(rb"^[ \t]*(?:import[ \t]+([\w.,\t ]+)|from[ \t]+([\w.]+)[ \t]+import[ \t]*\(?[ \t]*([\w,\t ]*))", re.MULTILINE)

# fmt: off
LOADED = frozenset((
    "argparse", "base64", "binascii", "bisect", "bz2", "calendar", "cmath", "collections", "colorsys", "configparser",
    "contextlib", "copy", "csv", "datetime", "decimal", "difflib", "email", "email.message", "email.mime.base",
    "email.mime.multipart", "email.mime.text", "email.parser", "email.policy", "email.utils", "enum", "fractions", "functools",
    "gzip", "hashlib", "heapq", "hmac", "html", "html.entities", "html.parser", "http", "http.client", "http.cookies",
    "ipaddress", "json", "locale", "lzma", "math", "mimetypes", "numbers", "operator", "pathlib", "pickle", "platform",
    "pprint", "queue", "random", "re", "secrets", "shlex", "shutil", "socket", "sqlite3", "ssl", "statistics", "string",
    "struct", "subprocess", "tempfile", "textwrap", "time", "tomllib", "traceback", "typing", "unicodedata", "urllib",
    "urllib.error", "urllib.parse", "urllib.request", "uuid", "xml.dom.minidom", "xml.etree.ElementTree", "xml.sax", "zipfile",
    "zlib", "zoneinfo",
))
# fmt: on


def load(module: str, folder: str) -> None:
    """Load what a module of the bundle imports, and the modules of the bundle that it imports.

    Nothing is loaded where anything in the bundle has the name of a module of Python's: the author's own comes first in a run.
    Raises RuntimeError where loading has started a thread or left a file open.
    """
    if any(name.partition(".")[0] in sys.stdlib_module_names for name in os.listdir(folder) if _may_be_module(name, folder)):
        return
    wanted = sorted(_standard(module, folder) - sys.modules.keys())
    if not wanted:
        return
    files = os.listdir("/proc/self/fd")
    path = sys.path
    sys.path = [one for one in path if one in _PATH]  # nothing of the bundle or its environment is found meanwhile
    try:
        for name in wanted:
            importlib.import_module(name)
    except ImportError:  # a system without it; the run will see
        pass
    finally:
        sys.path = path
    if threading.active_count() != 1 or len(os.listdir("/proc/self/fd")) != len(files):
        msg = f"loading {', '.join(wanted)} has left something behind"
        raise RuntimeError(msg)


def _may_be_module(name: str, folder: str) -> bool:
    """Answer whether a file or folder of the bundle could be imported; `token.json` could not."""
    return name.endswith(_SUFFIXES) or os.path.isdir(os.path.join(folder, name))


_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_PATH = frozenset(sys.path)
"""Of this interpreter alone: no bundle is on the path when this is loaded."""


def _standard(module: str, folder: str) -> set[str]:
    """Find the names, by the text of all that the module imports from its bundle."""
    found: set[str] = set()
    left, seen = [module], {module}
    while left and len(seen) <= _MOST_FILES:
        one = left.pop()
        text = _text(one, folder)
        for name in () if text is None else _imported(text, one):
            if name in LOADED:
                found.add(name)
            elif name not in seen and name.partition(".")[0] not in sys.stdlib_module_names:
                seen.add(name)
                left.append(name)
    return found


def _text(module: str, folder: str) -> bytes | None:
    path = os.path.join(folder, *module.split("."))
    for file in (f"{path}.py", f"{path}/__init__.py"):
        try:
            with open(file, "rb") as opened:
                return opened.read(_MOST_BYTES)
        except (OSError, ValueError):
            continue
    return None


def _imported(text: bytes, module: str) -> set[str]:
    """Answer the names that a text imports: modules, and names in modules, which may be modules themselves."""
    names: set[str] = set()
    for plain, source, inner in _IMPORT.findall(text):
        for one in plain.decode("ascii", "ignore").split(","):
            names.update(one.split()[:1])
        start = source.decode("ascii", "ignore")
        if start.startswith("."):
            level = len(start) - len(start.lstrip("."))
            start = ".".join([*module.split(".")[:-level], *filter(None, [start.lstrip(".")])])
        if source and start:
            names.add(start)
            names.update(f"{start}.{one.split()[0]}" for one in inner.decode("ascii", "ignore").split(",") if one.split())
    return names
