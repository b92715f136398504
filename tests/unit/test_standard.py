"""Which modules of Python's own a bundle imports, by its text alone."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from millrace._runtime import standard

TEXTS = {
    "import csv": {"csv"},
    "import csv as c, json, xml.etree.ElementTree as ET": {"csv", "json", "xml.etree.ElementTree"},
    "from urllib import request, parse": {"urllib", "urllib.request", "urllib.parse"},
    "    from email.mime.text import (MIMEText,": {"email.mime.text"},
    "if True:\n\timport gzip  # why": {"gzip"},
    "import multiprocessing, concurrent.futures, threading, tkinter": set(),
    "from . import inner": {"heapq"},
    "from .inner import name": {"heapq"},
    "import flows.inner": {"heapq"},
    "from flows import inner": {"heapq"},
    "important = 1; from_ = 2": set(),
    "import": set(),
    "from  import  (": set(),
    "import \xe9t\xe9": set(),
}


@pytest.mark.parametrize("text", TEXTS)
def test_modules_are_found_by_the_text_of_all_that_is_imported(tmp_path: Path, text: str) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "one.py").write_text(text)
    (tmp_path / "flows" / "inner.py").write_text("import heapq, flows.one")
    assert standard.StandardModules(str(tmp_path))._found("flows.one") == TEXTS[text]


def test_only_modules_of_python_are_loaded_and_none_that_keeps_something() -> None:
    assert {name.partition(".")[0] for name in standard.LOADED} <= standard.sys.stdlib_module_names
    assert not {"multiprocessing", "threading", "signal", "atexit", "readline"} & standard.LOADED


@pytest.mark.parametrize(("name", "hides"), [("csv.py", True), ("csv/x.txt", True), ("csv.json", False), ("token.pem", False)])
def test_only_what_can_be_imported_hides_a_module_of_python(tmp_path: Path, name: str, hides: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "flow.py").write_text("import colorsys")
    load = f"""
        import sys
        from millrace._runtime import standard
        standard.StandardModules({str(tmp_path)!r}).load("flow")
        print("colorsys" not in sys.modules)
    """
    # In a process of its own, as a template is: it refuses to go on beside threads, which this one has of other tests.
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(load)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(hides)


def test_each_file_is_searched_once_and_so_many_bytes_in_all(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("import heapq\n")
    for number in range(8):
        (tmp_path / f"large_{number}.py").write_text(f"import colorsys, large_{number + 1}\n".ljust(standard._MOST_OF_ONE, "\n"))
    modules = standard.StandardModules(str(tmp_path))
    assert modules._found("flow") == {"heapq"}
    assert modules._found("flow") == set()
    assert modules._found("large_0") == {"colorsys"}
    assert modules._bytes_left == 0
    (tmp_path / "late.py").write_text("import heapq\n")
    assert modules._found("late") == set()


def test_names_without_a_file_are_looked_for_so_many_times_in_all(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("import " + ", ".join(f"absent_{number}" for number in range(10_000)))
    modules = standard.StandardModules(str(tmp_path))
    modules._found("flow")
    assert len(modules._searched) == standard._MOST_NAMES
