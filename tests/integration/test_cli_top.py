"""`millrace top` at a terminal: what it draws, in whatever width, and how it leaves the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# The command at a terminal of its own, which Ctrl-C interrupts it by, also where whoever runs the tests ignores that.
PROGRAM = """
import fcntl, signal, sys, termios
from millrace.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(main(["top"]))
"""
# Seconds, far above what anything here takes.
BOUND = 30.0
READY = {
    "service": "gateway", "ready": True, "status": "degraded", "accepting": {"webhooks": True},
    "parts": {"broker": {"ready": True}}, "unserved": {"logs": {"how": "down"}}, "degraded": ["executor"],
    "services": {
        "events": {"ready": True, "parts": {}}, "oauth": {"ready": True, "parts": {}}, "logs": {"ready": False, "parts": {}},
        "executor": {"ready": False, "parts": {"sandbox": {"ready": False}}},
    },
}  # fmt: skip
EXECUTOR = r"""
# TYPE millrace_runs_ended counter
millrace_runs_ended_total{reason="",service="executor",status="succeeded",workflow="quick"} 3.0
millrace_runs_ended_total{reason="error",service="executor",status="failed",workflow="slow \"\\\nESC[2J"} 2.0
millrace_run_duration_seconds_sum{service="executor",workflow="quick"} 0.3
millrace_run_duration_seconds_count{service="executor",workflow="quick"} 3.0
millrace_run_duration_seconds_sum{service="executor",workflow="slow \"\\\nESC[2J"} 30.0
millrace_run_duration_seconds_count{service="executor",workflow="slow \"\\\nESC[2J"} 2.0
millrace_consumers_waiting{consumer="executor-runs-normal",service="executor"} 7.0
millrace_consumers_in_work{consumer="executor-runs-normal",service="executor"} 1.0
millrace_consumers_age_seconds{consumer="executor-runs-normal",service="executor"} 90.0
millrace_projection_lag_messages{projection="runs",service="executor"} 5.0
millrace_projection_lag_age_seconds{projection="runs",service="executor"} 2.5
db_client_connection_count{db_client_connection_pool_name="executor",db_client_connection_state="used"} 2.0
db_client_connection_max{db_client_connection_pool_name="executor"} 8.0
millrace_pool_slots{service="executor"} 24.0
millrace_pool_slots_min{service="executor"} 24.0
millrace_pool_slots_max{service="executor"} 96.0
millrace_pool_taken{service="executor"} 3.0
this is no sample
"""


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        if server.away:
            status, body = 502, b"{}"
        elif self.path == "/readyz":
            status, body = 200, json.dumps(READY).encode()
        elif self.path == "/metrics?service=executor":
            status, body = 200, EXECUTOR.replace("ESC", "\x1b").encode()
        else:
            status, body = 200, b""
            assert "service=logs" not in self.path, "a service that is away is asked for nothing"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as made:
        made.daemon_threads = True
        made.away = False  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Terminal:
    """A terminal of `columns` and `rows`, and what was written to it."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.written = b""

    def until(self, text: bytes) -> None:
        """Read until a text was written; AssertionError where nothing more comes."""
        while text not in self.written:
            assert self.read(), self.written

    def close(self, key: bytes) -> int:
        """Press a key and return the exit code."""
        os.write(self._descriptor, key)
        # It may have more to write than a terminal takes that nobody reads.
        until = time.monotonic() + BOUND
        while self.process.poll() is None and time.monotonic() < until:
            self.read(0.05)
        code = self.process.wait(1)
        while self.read(0):
            pass
        return code

    def read(self, within: float = BOUND) -> bytes:
        """Return what is written next, nothing where that takes longer."""
        ready, _, _ = select.select([self._descriptor], [], [], within)
        part = os.read(self._descriptor, 65536) if ready else b""
        self.written += part
        return part


@contextmanager
def terminal(gateway: Any, place: Path, *, columns: int = 100, rows: int = 40, **environment: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs, cwd=place, start_new_session=True,
        env=settings(gateway, place, TERM="xterm", **environment),
    )  # fmt: skip
    kept = os.dup(theirs)
    os.close(theirs)
    shown = Terminal(ours, process)
    try:
        yield shown
        assert termios.tcgetattr(kept) == before
    finally:
        process.kill()
        process.wait()
        os.close(kept)
        os.close(ours)


def settings(gateway: Any, place: Path, **more: str) -> dict[str, str]:
    url = f"http://127.0.0.1:{gateway.server_address[1]}"
    path = os.pathsep.join(sys.path)
    return {"PATH": os.defpath, "PYTHONPATH": path, "HOME": str(place), "MILLRACE_URL": url, "MILLRACE_KEY": "mr_x", **more}


def frames(written: bytes) -> list[list[str]]:
    """Return what was drawn, frame by frame, without colours."""
    text = re.sub(r"\x1b\[[\d;]*m", "", written.decode())
    return [frame.partition("\x1b[J")[0].split("\x1b[K\r\n")[:-1] for frame in text.split("\x1b[H")[1:]]


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)], ids=["q", "Ctrl-C"])
def test_it_is_drawn_again_and_the_terminal_is_left_as_it_was(gateway: Any, tmp_path: Path, key: bytes, code: int) -> None:
    with terminal(gateway, tmp_path) as shown:
        # The second frame has rates, and is judged below: it is whole first.
        while b"\x1b[J" not in shown.written.partition(b"runs 0.0")[2]:
            assert shown.read(), shown.written
        assert shown.close(key) == code
    assert shown.written.startswith(b"\x1b[?1049h")
    assert shown.written.rstrip().endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"Traceback" not in shown.written
    first, second, *_ = frames(shown.written)
    text = "\n".join(second)
    assert first[0].startswith("millrace  degraded  webhooks taken  ")
    assert re.search(r"executor +degraded +sandbox", text)
    assert re.search(r"logs +down", text)
    assert "slots 3/24" in text
    assert "failed 2  succeeded 3" in text
    assert text.index("15 s") < text.index("100 ms")
    assert re.search(r"90 s +7 +1 +executor-runs-normal", text)
    assert re.search(r"2500 ms +5 +executor runs", text)
    assert re.search(r"2/8 +0 +0 +executor", text)
    # What an author wrote does not speak to the terminal.
    assert b"\x1b[2J" not in shown.written
    assert 'slow "\\ \\x1b[2J' in text


def test_a_narrow_and_low_terminal_gets_what_fits(gateway: Any, tmp_path: Path) -> None:
    with terminal(gateway, tmp_path, columns=30, rows=10) as shown:
        shown.until(b"\x1b[J")
        assert shown.close(b"q") == 0
    for frame in frames(shown.written):
        assert len(frame) <= 9
        assert max(map(len, frame)) <= 29


def test_colours_are_left_out_where_they_are_not_wanted(gateway: Any, tmp_path: Path) -> None:
    with terminal(gateway, tmp_path) as shown:
        shown.until(b"\x1b[J")
        shown.close(b"q")
    assert re.search(rb"\x1b\[3\dm", shown.written)
    with terminal(gateway, tmp_path, NO_COLOR="1") as shown:
        shown.until(b"\x1b[J")
        shown.close(b"q")
    assert not re.search(rb"\x1b\[[\d;]*m", shown.written)


def test_a_gateway_that_goes_away_is_told_and_waited_for(gateway: Any, tmp_path: Path) -> None:
    with terminal(gateway, tmp_path) as shown:
        shown.until(b"\x1b[J")
        gateway.away = True
        shown.until(b"trying again")
        gateway.away = False
        seen = len(shown.written)
        while not any(frame[0].startswith("millrace") for frame in frames(shown.written[seen:])[:-1]):
            assert shown.read(), shown.written[seen:]
        assert shown.close(b"q") == 0


def test_without_a_terminal_there_is_one_snapshot_and_no_colour(gateway: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "millrace.cli", "top"]
    environment = settings(gateway, tmp_path, TERM="xterm")
    text = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
    assert text.startswith(b"millrace  degraded")
    assert b"\x1b" not in text
    said = subprocess.run([*command, "--output", "json"], env=environment, cwd=tmp_path, capture_output=True, check=True).stdout
    document = json.loads(said)
    assert document["workflows"][0] == {"workflow": 'slow "\\\n\x1b[2J', "ended": 2, "failed": 2, "mean_s": 15}
    assert document["per_second"] == {"runs": 0, "webhooks": 0, "requests": 0}
    assert (document["queue"], document["outcomes"]) == (
        {"messages": 0, "age_s": 90, "slots": 24, "slots_min": 24, "slots_max": 96, "taken": 3},
        {"failed": 2, "succeeded": 3},
    )
    assert {one["service"]: one["status"] for one in document["services"]}["logs"] == "down"
    assert not [name for name in document if name.startswith("_")]
