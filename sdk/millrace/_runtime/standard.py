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

_MOST_NAMES, _MOST_BYTES = 256, 512 * 1024
"""Names of modules that are looked for in one bundle, and bytes of their files that are searched, all together."""
_MOST_OF_ONE = 256 * 1024
"""Bytes of one file that are searched."""
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
_WITH_CLIENTS = frozenset(("millrace.connections", "millrace.integrations"))
_OF_CLIENTS = frozenset(("http.client", "ssl", "urllib.request"))


class StandardModules:
    """Loads what the modules of one bundle import.

    Searches each file once, and so many names and bytes in all: meanwhile no child is forked, and those that are asked for hold up
    others.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._searched: set[str] = set()
        self._bytes_left = _MOST_BYTES
        self._are_hidden: bool | None = None

    def load(self, module: str) -> None:
        """Load what a module of the bundle imports, and the modules of the bundle that it imports.

        Nothing is loaded where anything in the bundle has the name of a module of Python's: the author's own comes first in a run.
        Raises RuntimeError where loading has started a thread or left a file open.
        """
        if self._are_hidden is None:
            names = [name for name in os.listdir(self._folder) if name.partition(".")[0] in sys.stdlib_module_names]
            self._are_hidden = any(_may_be_module(name, self._folder) for name in names)
        wanted = [] if self._are_hidden else sorted(self._found(module) - sys.modules.keys())
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

    def named(self, module: str) -> set[str]:
        """Return the names that a module imports, by the text of all of the bundle behind it that was not searched yet."""
        found: set[str] = set()
        left = {module}
        while left and len(self._searched) < _MOST_NAMES and self._bytes_left > 0:
            one = left.pop()
            if one in self._searched:
                continue
            self._searched.add(one)
            text = self._text(one)
            if text is None:
                continue
            self._bytes_left -= len(text)
            for name in _imported(text, one):
                found.add(name)
                if name not in LOADED and name.partition(".")[0] not in sys.stdlib_module_names:
                    left.add(name)
        return found

    def _found(self, module: str) -> set[str]:
        """Return those of them that are loaded here, with those that a client loads at its first request."""
        named = self.named(module)
        return named & LOADED | (_OF_CLIENTS if named & _WITH_CLIENTS else set())

    def _text(self, module: str) -> bytes | None:
        path = os.path.join(self._folder, *module.split("."))
        for file in (f"{path}.py", f"{path}/__init__.py"):
            try:
                with open(file, "rb") as opened:
                    return opened.read(min(_MOST_OF_ONE, self._bytes_left))
            except (OSError, ValueError):
                continue
        return None


def names_in(folder: str) -> set[str]:
    """Return the names of the modules and packages that a folder holds."""
    return {name.partition(".")[0] for name in os.listdir(folder) if _may_be_module(name, folder)}


def _may_be_module(name: str, folder: str) -> bool:
    """Answer whether a file or folder of the bundle could be imported; `token.json` could not."""
    return name.endswith(_SUFFIXES) or os.path.isdir(os.path.join(folder, name))


_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_PATH = frozenset(sys.path)
"""Of this interpreter alone: no bundle is on the path when this is loaded."""


def _imported(text: bytes, module: str) -> set[str]:
    """Answer the names that a text imports: modules, and names in modules, which may be modules themselves."""
    names: set[str] = set()
    for plain, source, inner in set(_IMPORT.findall(text)):
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
