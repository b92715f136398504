"""`millrace logs`: exported and followed over connections that break, each message once."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import exporting, main, show, stream, tail
from millrace.cli.api import Api, Refused
from tests.integration.test_cli import Scripted, server

__all__ = ["server"]


class Breaking(Scripted):
    """As its base, but a body of the kind `broken` ends before the length that is said of it."""

    def do_GET(self) -> None:  # noqa: N802 - the name that its base has
        made: Any = self.server
        if made.answers[0] is None or made.answers[0][1] != "broken":
            super().do_GET()
            return
        made.asked.append((self.command, self.path, dict(self.headers)))
        _, _, body = made.answers.pop(0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 1000))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture(autouse=True)
def at_once(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.RequestHandlerClass = Breaking
    monkeypatch.setattr(exporting, "PAUSE", 0.0)
    monkeypatch.setattr(tail, "PAUSE", 0.0)
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")


def item(seq: int, **more: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-20T12:00:00Z", "level": "info", "service": "x", "type": "t", "org": "default", "stream": "RUNS",
        "seq": seq, "message": f"m{seq}", "line": None, **more,
    }  # fmt: skip


def lines(*items: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in items)


@pytest.mark.parametrize("name", ["all.ndjson", "all.ndjson.gz"])
def test_an_export_goes_on_behind_the_last_whole_page(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    server.answers = [
        (200, "broken", lines(item(1), item(2, next_cursor="two"), item(3))),
        None,
        (503, "application/json", b"{}"),
        (200, "broken", lines(item(3), item(4, next_cursor="four")) + b'{"seq'),
        (200, "application/x-ndjson", lines(item(5))),
    ]
    target = tmp_path / name
    assert main(["logs", "level:error", "--export", str(target)]) == 0
    content = gzip.decompress(target.read_bytes()) if name.endswith("gz") else target.read_bytes()
    assert [json.loads(line) for line in content.splitlines()] == [item(number) for number in range(1, 6)]
    assert [path.partition("cursor=")[2] for _, path, _ in server.asked] == ["", "two", "two", "two", "four"]
    assert "5 messages" in capsys.readouterr().err


def test_an_export_that_is_refused_or_never_goes_on_fails(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [(422, "application/json", b'{"detail": "position 1: no"}')]
    assert main(["logs", "(", "--export", str(tmp_path / "a.ndjson")]) == 1
    assert "position 1" in capsys.readouterr().err
    server.answers = [(200, "broken", lines(item(1, next_cursor="one"))), *[None] * exporting.TRIES]
    assert main(["logs", "--export", str(tmp_path / "a.ndjson")]) == 3
    assert main(["logs", "--export", str(tmp_path / "no" / "a.ndjson")]) == 2
    assert main(["logs", "--export", "x", "--histogram"]) == 2


def test_nothing_is_erased_that_came_after_the_question(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeping(Scripted):
        """Keeps the bodies of requests."""

        def do_POST(self) -> None:  # noqa: N802 - as its base calls it
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.headers.replace_header("Content-Length", "0")
            super().do_POST()

    bodies: list[Any] = []
    server.RequestHandlerClass = Keeping
    counted = {"since": "2026-11-20T11:00:00Z", "until": "2026-11-20T12:00:00Z", "step": 60.0, "count": 3, "items": []}
    part = {"erased": 2, "kept": [], "next_cursor": "more"}
    answers = (counted, part, part | {"next_cursor": None})
    server.answers = [(200, "application/json", json.dumps(one).encode()) for one in answers]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["audit", "erase", "alice", "--since", "1h", "--reason", "request 17"]) == 0
    assert [(one["from"], one["to"], one["cursor"]) for one in bodies] == [
        ("now-1h", counted["until"], None),
        ("now-1h", counted["until"], "more"),
    ]


def sent(*events: tuple[str, str, Any]) -> bytes:
    return b"".join(f"id: {id_}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode() for kind, id_, data in events)


def test_a_tail_goes_on_after_its_last_event_and_prints_nothing_twice(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(show, "aside", lambda text, *_: said.append(text))
    server.answers = [
        (200, "text/event-stream", sent(("place", "p0", {}), ("row", "p1", item(1)), ("row", "p2", item(2)))),
        (200, "application/json", json.dumps({"items": [item(0), item(1)], "next_cursor": None}).encode()),
        None,
        (200, "text/event-stream", sent(("place", "p2", {}), ("row", "p3", item(3))) + b"id: p4\nevent: row\nda"),
        (200, "text/event-stream", sent(("dropped", "", {"count": 7}), ("row", "p9", item(9)))),
        (403, "application/json", b"{}"),
    ]
    api = Api(server.url)
    followed = tail.followed(api, {"q": "a", "saved": None, "from": "now-1h"})
    found = [next(followed)["seq"] for _ in range(5)]
    with pytest.raises(Refused):
        next(followed)
    api.close()
    assert found == [0, 1, 2, 3, 9]
    assert [headers.get("Last-Event-ID") for _, path, headers in server.asked if "tail" in path] == [None, "p2", "p2", "p3", "p9"]
    assert any("7 messages" in text for text in said)
    assert stream.PAUSE > 0


def test_counts_are_drawn(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bars = [{"time": f"2026-11-20T12:0{n}:00Z", "count": n * 10, "levels": {"info": n * 9, "error": n}} for n in range(3)]
    found = {"items": bars, "count": 30, "step": 60.0, "since": "", "until": ""}
    facets = {"items": [{"field": "level", "values": [{"value": "in\x1bfo", "count": 27}]}], "counted": 30, "complete": False}
    server.answers = [(200, "application/json", json.dumps(one).encode()) for one in (found, facets, facets)]
    assert main(["logs", "--histogram"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.count("█") for line in shown] == [0, 25, 50]
    assert "error=2" in shown[2]
    assert main(["audit", "search", "a", "--facet", "level", "--facet", "type"]) == 0
    told = capsys.readouterr()
    assert ("27 in\\x1bfo" in told.out, "the newest 30" in told.err) == (True, True)
    assert server.asked[1][1] == "/api/v1/logs/facets?q=stream%3AAUDIT+%28a%29&fields=level%2Ctype"
    assert main(["logs", "--facet", "level", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == facets
