"""The command as a process, and its client against servers that misbehave."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import keys, main
from millrace.cli.api import Api, Refused, Unreachable


class Scripted(BaseHTTPRequestHandler):
    """Answers each request by the next of the server's answers; `None` hangs up without one."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        server.asked.append((self.command, self.path, dict(self.headers)))
        answer = server.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as made:
        made.daemon_threads = True
        made.asked = []  # type: ignore[attr-defined]
        made.answers = []  # type: ignore[attr-defined]
        made.url = f"http://127.0.0.1:{made.server_address[1]}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Together(Scripted):
    """Answers puts only when `server.together` of them have come, and records their paths as they come and go."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server: Any = self.server
        server.log.append(("came", self.path))
        server.together.wait(60)
        server.log.append(("went", self.path))
        self.send_response(200)
        self.send_header("X-Millrace-Change", "created")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def test_resources_are_put_together_but_after_those_that_they_refer_to(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.RequestHandlerClass = Together
    server.together, server.log = threading.Barrier(4), []
    made = "---\nkind: {kind}\nname: {name}\n{rest}\n"
    sources = [made.format(kind="source", name=f"s{number}", rest="adapter: topic") for number in range(4)]
    subscriptions = [
        made.format(kind="subscription", name=f"u{number}", rest=f"source: s{number}\nworkflow: w") for number in range(4)
    ]
    (tmp_path / "all.yaml").write_text("".join(subscriptions + sources))
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")
    assert main(["apply", str(tmp_path)]) == 0
    names = [f"source s{number}" for number in range(4)] + [f"subscription u{number}" for number in range(4)]
    assert capsys.readouterr().out.splitlines() == [*(f"created {name}" for name in names), "8 created"]
    kinds = [(what, path.split("/")[3]) for what, path in server.log]
    assert kinds == [(what, kind) for kind in ("sources", "subscriptions") for what in ("came", "went") for _ in range(4)]


def page(items: list[Any], cursor: str | None) -> tuple[int, str, bytes]:
    return 200, "application/json", json.dumps({"items": items, "next_cursor": cursor}).encode()


def test_a_list_is_followed_to_its_end_or_to_the_limit(server: Any) -> None:
    api = Api(server.url, key="mr_x", org="acme")
    server.answers = [page([1, 2], "two"), page([3], None)]
    assert api.pages("/runs") == {"items": [1, 2, 3], "next_cursor": None}
    assert [path for _, path, _ in server.asked] == ["/api/v1/runs?limit=1000", "/api/v1/runs?limit=1000&cursor=two"]
    assert server.asked[0][2]["Authorization"] == "Bearer mr_x"
    assert server.asked[0][2]["X-Millrace-Org"] == "acme"
    server.answers = [page([1, 2], "two"), page([3], "three")]
    assert api.pages("/runs", limit=3) == {"items": [1, 2, 3], "next_cursor": "three"}
    assert server.asked[-1][1] == "/api/v1/runs?limit=1&cursor=two"
    api.close()


def test_a_kept_connection_that_the_server_gave_up_is_made_anew_but_a_post_is_never_sent_twice(server: Any) -> None:
    api = Api(server.url)
    server.answers = [page([], None), None, page([1], None)]
    api.pages("/runs")
    assert api.pages("/runs")["items"] == [1]
    server.answers = [None, page([], None)]
    with pytest.raises(Unreachable, match=server.url):
        api.call("POST", "/runs", "x", "rerun")
    assert [method for method, _, _ in server.asked] == ["GET", "GET", "GET", "POST"]
    api.close()


def row(**fields: Any) -> dict[str, Any]:
    always = {
        "time": "2026-01-31T09:30:00.123456Z",
        "stream": "RUNS",
        "type": "run.failed",
        "level": "error",
        "service": "executor",
    }
    always |= {"service": "executor", "org": "default", "message": "it failed"}
    return always | {"run": None, "workflow": None, "data": {}} | fields


def test_a_row_of_a_run_says_which_and_an_audited_change_what(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")
    changes = {"role": ["viewer", "admin"], "scopes": [None, ["runs"]], "note": ["x" * 100, "\x1b[2J"], "odd": "no pair"}
    data = {"category": "key", "detail": {"changes": changes}}
    audited = row(stream="AUDIT", type="audit.patch", level="info", service="gateway", data=data)
    items = [row(run="0199f2c4", workflow="nap"), audited, row(stream="AUDIT", data={"detail": None}), row(data="text")]
    server.answers = [page(items, None)]
    assert main(["logs"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "2026-01-31 09:30:00.123 error   executor run.failed           nap/0199f2c4 it failed"
    assert shown[1].endswith(f"""it failed (key) role: viewer → admin scopes: - → ["runs"] note: {"x" * 59}… → \\x1b[2J""")
    assert [line.endswith("run.failed           it failed") for line in shown[2:]] == [True, True]


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("run:0199f2c4", "run:0199f2c4*"),
        ("level:error (correlation_id:0199f2c4-8a3b)", "correlation_id:0199f2c4-8a3b*"),
        ("run:0199f2c4*", None),
        ("run:0199f2c4-8a3b-7c5d-9e1f-2a4b6c8d0e1f", None),
        ("data.run:0199f2c4", None),
        ("workflow:nap", None),
    ],
)
def test_a_search_for_the_beginning_of_an_id_that_finds_nothing_says_why(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], query: str, hint: str | None
) -> None:
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")
    server.answers = [page([], None)]
    assert main(["logs", query]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err.strip().rpartition(" ")[2] or None) == ("", hint)


def test_sealing_anew_has_a_name_of_its_own(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")
    part = {"key": "k", "next": None, "service": "oauth", "resealed": 0, "left": 0, "quarantined": []}
    for arguments in (["reseal"], ["rotate"], ["rotate", "--yes"]):
        server.answers = [(200, "application/json", json.dumps(part).encode())]
        assert main(["keys", *arguments]) == 0
        assert server.asked[-1][1] == "/api/v1/vault/rotate"
        assert capsys.readouterr().out == "nothing to do: the first key, k, seals everything\n"
    asked = len(server.asked)
    # A person at a terminal, who has left the name out.
    monkeypatch.setattr(keys, "at_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["keys", "rotate"]) == 130
    assert len(server.asked) == asked


def test_an_answer_of_something_else_is_no_success(server: Any) -> None:
    api = Api(server.url)
    server.answers = [(200, "text/html", b"<h1>Welcome</h1>"), (302, "text/html", b"")]
    with pytest.raises(Refused, match="text/html instead of JSON"):
        api.get("/runs")
    with pytest.raises(Refused, match="302"):
        api.get("/runs")
    api.close()


def millrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millrace.cli", *arguments],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd="/",
    )


@pytest.mark.parametrize(
    ("program", "says"),
    [
        *[("up", "--public-url"), ("demo", "--once"), ("rebuild", "--from"), ("doctor", "--port")],
        *[("backup", "--verify"), ("restore", "--keys")],
    ],
)
def test_a_program_of_the_stack_shows_its_own_help_under_the_commands_name(program: str, says: str) -> None:
    done = millrace(program, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: millrace {program} ")
    assert says in done.stdout


def test_the_exit_code_of_a_program_of_the_stack_is_passed_on() -> None:
    done = millrace("rebuild", "--from", "bus", "--data", "/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/nowhere is no data folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (["runs", "list", "--org", "a\nb"], {"MILLRACE_URL": "http://127.0.0.1:1"}, 2),
        (["runs", "list", "--org", "ü"], {"MILLRACE_URL": "http://127.0.0.1:1"}, 2),
        (["runs", "list"], {"MILLRACE_URL": f"http://{'a' * 70}.example"}, 3),
        (["logs", "\udcff"], {"MILLRACE_URL": "http://127.0.0.1:1"}, 3),
        (["files", "get", "\udcff"], {"MILLRACE_URL": "http://127.0.0.1:1"}, 3),
    ],
)
def test_odd_input_is_one_sentence_and_no_traceback(arguments: list[str], environment: dict[str, str], code: int) -> None:
    done = millrace(*arguments, MILLRACE_KEY="mr_x", **environment)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr


ANSWERS = [b"", b"[]", b"null", b'"x"', b"5", b"{}", b'{"items": 5}', b'{"items": [], "next_cursor": 7}', b'{"items": [1, {}]}',
           b'{"items": [{"id": "r1"}], "next_cursor": null}', b"[" * 200_000, b"\xff\xfe", b"<html>", b"9" * 5000,
           b'{"status": "failed", "error": 5}']  # fmt: skip
RECORDED = Path(__file__).parents[1] / "vectors" / "github-ping.http"
COMMANDS = ["runs list", "runs get ab", "runs logs ab", "runs why ab", "runs steps ab", "runs cancel ab", "deliveries list",
            "deliveries get ab", "deliveries retry ab", "logs x", "workflows list", "sources list", "sources get x",
            "variables list", "adapters", "files list", "files get x", "run x -i a=1", "run x --wait 1", "hooks send /etc/hostname",
            "deploy /etc/default", f"sources test x --file {RECORDED}"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_a_server_answers_is_told_in_a_sentence(
    server: Any, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_URL", server.url)
    monkeypatch.setenv("MILLRACE_KEY", "mr_x")
    for answer in ANSWERS:
        server.answers[:] = [(200, "application/json", answer)] * 5
        # Nothing but exit codes comes out of it, whatever was answered.
        code = main(command.split())
        said = capfd.readouterr().err
        assert code in {0, 1, 2, 3, 10, 15}, (answer, said)
        assert said.count("\n") <= 1 or code in {0, 10, 15}, (answer, said)


def test_files_and_settings_that_cannot_be_understood_are_told_in_a_sentence(tmp_path: Path) -> None:
    deep, binary, folder = tmp_path / "deep.json", tmp_path / "binary.json", tmp_path / "a-folder"
    deep.write_text("[" * 200_000)
    binary.write_bytes(b"\xff\xfe\x00")
    folder.mkdir()
    there = {"MILLRACE_URL": "http://127.0.0.1:1", "MILLRACE_KEY": "mr_x"}
    config = tmp_path / "millrace"
    config.mkdir()
    (config / "config.toml").write_bytes(b"[profiles\xff")
    (config / "config.toml").chmod(0o600)
    for arguments, environment in (
        (["run", "x", "--input", f"@{deep}"], there),
        (["run", "x", "--input", f"@{binary}"], there),
        (["run", "x", "--input", f"@{folder}"], there),
        (["run", "x", "--input", "@/nowhere"], there),
        (["subscriptions", "put", "x", "--body", "[1]"], there),
        (["connections", "put", "x", "--token-file", str(binary)], there),
        (["deploy", "/nowhere"], there),
        (["runs", "list"], {}),
        (["runs", "list"], there | {"MILLRACE_KEY": "m r"}),
        (["runs", "list"], there | {"MILLRACE_URL": "ftp://x"}),
        (["runs", "list"], there | {"MILLRACE_URL": "http://[::1"}),
        (["runs", "list", "--profile", "x"], {"XDG_CONFIG_HOME": str(tmp_path)}),
        (["runs", "list", "--profile", "x"], {"XDG_CONFIG_HOME": "/nowhere"}),
    ):
        done = millrace(*arguments, **environment)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert "mr_x" not in done.stderr


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", "| head -c 1 >/dev/null"])
def test_an_output_that_takes_nothing_is_no_traceback(server: Any, redirected: str) -> None:
    row = {"id": "r" * 36, "workflow": "ü\u2028😀" * 50, "requested_at": None, "duration_ms": None}
    listed = json.dumps({"items": [row] * 500, "next_cursor": None}).encode()
    server.answers[:] = [(200, "application/json", listed)] * 2
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "MILLRACE_URL": server.url, "MILLRACE_KEY": "mr_x"}
    command = f"'{sys.executable}' -m millrace.cli runs list {redirected}"
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception" not in done.stderr, done.stderr
    assert done.stderr.count("\n") <= 1


def test_text_that_the_terminal_has_no_letters_for_is_spelled_out(server: Any) -> None:
    server.answers[:] = [(200, "application/json", json.dumps({"id": "ü😀" * 20, "status": "cancelling"}).encode())]
    done = millrace("runs", "cancel", "r" * 36, MILLRACE_URL=server.url, MILLRACE_KEY="mr_x", PYTHONIOENCODING="iso-8859-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\U0001f600" in done.stdout


def runs(*ids: str) -> tuple[int, str, bytes]:
    return 200, "application/json", json.dumps({"items": [{"id": id_} for id_ in ids], "next_cursor": None}).encode()


def test_the_beginning_of_an_id_is_enough_and_of_several_the_candidates_are_named(server: Any) -> None:
    there = {"MILLRACE_URL": server.url, "MILLRACE_KEY": "mr_x"}
    answer = (200, "application/json", b'{"id": "c0071b00-1", "status": "cancelling"}')
    server.answers[:] = [runs("c0071b00-1"), answer]
    assert millrace("runs", "cancel", "c0071b00", **there).stdout == "c0071b00-1 cancelling\n"
    assert [path for _, path, _ in server.asked] == ["/api/v1/runs?id=c0071b00&limit=11", "/api/v1/runs/c0071b00-1/cancel"]
    server.answers[:] = [runs("c0071b00-1", "c0071b00-2")]
    done = millrace("runs", "cancel", "c0", **there)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "millrace runs cancel: c0 is the beginning of several: c0071b00-1, c0071b00-2.\n"
    server.answers[:] = [runs(*(f"c0{n}" for n in range(11)))]
    assert millrace("deliveries", "retry", "c0", **there).stderr.endswith("c09, ….\n")
    # An id may be the beginning of another.
    server.answers[:] = [runs("c0", "c01"), answer]
    assert millrace("runs", "cancel", "c0", **there).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["runs", "get"], ["run", "x", "--wait", "soon"], ["runs", "list", "--output", "xml"], ["runs", "list"]],
)
def test_what_is_not_understood_is_one_sentence_and_exit_code_2(arguments: list[str]) -> None:
    done = millrace(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("millrace")


def test_nobody_there_is_exit_code_3_with_the_address_and_without_the_key() -> None:
    done = millrace("runs", "list", MILLRACE_URL="http://127.0.0.1:1", MILLRACE_KEY="mr_hidden")
    assert (done.returncode, done.stdout) == (3, "")
    assert "http://127.0.0.1:1" in done.stderr
    assert "mr_hidden" not in done.stderr


def test_each_of_several_dead_letters_is_ended_though_one_of_them_is_refused(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [f"0189abcd-0000-5000-8000-00000000000{n}" for n in range(3)]
    problem = b'{"title": "Conflict", "detail": "was discarded already"}'
    done = [(200, "application/json", json.dumps({"id": id_}).encode()) for id_ in ids]
    server.answers = [done[0], (409, "application/problem+json", problem), done[2]]
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k")):
        monkeypatch.setenv(name, value)
    assert main(["dead-letters", "discard", *ids]) == 1
    assert [path for _, path, _ in server.asked] == [f"/api/v1/dead-letters/{id_}/discard" for id_ in ids]
    said = capsys.readouterr().out
    assert ids[0] in said
    assert f"{ids[1]}: " in said
    assert "was discarded already" in said
    assert ids[2] in said


def test_a_replay_is_waited_for_and_shown(server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replay: dict[str, Any] = {"id": "r-1", "status": "running", "total": 3, "replayed": 0, "skipped": 0, "failed": 0, "rate": 5.0}
    ended = replay | {"status": "done", "replayed": 2, "skipped": 1}
    server.answers = [(202 if one is replay else 200, "application/json", json.dumps(one).encode()) for one in (replay, ended)]
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k")):
        monkeypatch.setenv(name, value)
    assert main(["replays", "start", "--since", "1h", "--status", "unroutable", "--rate", "5", "--wait"]) == 0
    assert [(method, path) for method, path, _ in server.asked] == [
        ("POST", "/api/v1/deliveries/replay"),
        ("GET", "/api/v1/replays/r-1"),
    ]
    assert "3 of 3" in capsys.readouterr().out
    assert main(["replays", "start", "--since", "yesterday"]) == 2


def test_what_a_person_should_know_is_told_beside_the_answer(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k")):
        monkeypatch.setenv(name, value)
    id_ = "0189abcd-0000-5000-8000-000000000000"
    times = {"items": [{"at": "2026-01-01T00:00:00Z", "local": "2026-01-01T01:00:00+01:00"}], "next_cursor": None}
    refused = {"name": "ship", "status": "unroutable", "retry_at": "2026-01-01T00:01:00.5Z"}
    needs = {"detail": "no event can be made of this webhook, so that the edit needs a `type` beside its `data`: bad"}
    server.answers = [
        (status, "application/json", json.dumps(body).encode())
        for status, body in (
            (200, {"id": id_, "source": "s-1", "source_name": "shop", "status": "unroutable", "subscriptions": [refused]}),
            (422, needs),
            (200, times),
            (200, {"name": "nightly", "enabled": False}),
        )
    ]
    assert main(["deliveries", "get", id_]) == 0
    shown = capsys.readouterr().out
    assert ("shop (s-1)" in shown, "2026-01-01T00:01:00Z" in shown) == (True, True)
    assert main(["deliveries", "retry", id_, "--data", "1"]) == 1
    assert "--data needs --type" in capsys.readouterr().err
    assert main(["schedules", "next", "nightly"]) == 0
    told = capsys.readouterr()
    assert "2026-01-01T00:00:00Z" in told.out
    assert "nightly is disabled and does not fire" in told.err


def test_members_are_those_of_the_organization_that_is_named(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k"), ("MILLRACE_ORG", "acme")):
        monkeypatch.setenv(name, value)
    ada = {"name": "ada", "email": "a@x.example", "role": "viewer", "enabled": True, "created_at": "2026-01-01T00:00:00.1Z"}
    server.answers = [
        page([ada], None),
        (200, "application/json", json.dumps(ada | {"role": "operator"}).encode()),
        (204, "application/json", b""),
    ]
    for arguments in (["list"], ["patch", "ada", "--role", "operator"], ["delete", "ada/x"]):
        assert main(["members", *arguments]) == 0
    assert [(method, path.partition("?")[0]) for method, path, _ in server.asked] == [
        ("GET", "/api/v1/orgs/acme/members"),
        ("PATCH", "/api/v1/orgs/acme/members/ada"),
        ("DELETE", "/api/v1/orgs/acme/members/ada%2Fx"),
    ]
    shown = capsys.readouterr().out
    assert ("a@x.example" in shown, "operator" in shown) == (True, True)


def test_open_invitations_are_those_of_the_organization_that_is_named(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k"), ("MILLRACE_ORG", "acme")):
        monkeypatch.setenv(name, value)
    times = {"created_at": "2026-01-01T00:00:00.1Z", "ends_at": "2026-01-08T00:00:00.1Z"}
    one = {"id": "0199", "role": "operator", "name": None, "email": "a@x.example", "invited_by": "user:ada"} | times
    server.answers = [page([one], None), (204, "application/json", b"")]
    for arguments in (["list"], ["delete", "0199"]):
        assert main(["invitations", *arguments]) == 0
    assert [(method, path.partition("?")[0]) for method, path, _ in server.asked] == [
        ("GET", "/api/v1/orgs/acme/invitations"),
        ("DELETE", "/api/v1/orgs/acme/invitations/0199"),
    ]
    shown = capsys.readouterr().out
    assert [text in shown for text in ("0199", "operator", "a@x.example", "2026-01-08")] == [True] * 4


def test_what_an_organization_still_has_names_the_option_that_erases_it(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("MILLRACE_URL", server.url), ("MILLRACE_KEY", "mr_k")):
        monkeypatch.setenv(name, value)
    problem = b'{"detail": "it has run: 1; with ?erase=true all of it is removed"}'
    server.answers = [(409, "application/problem+json", problem)]
    assert main(["orgs", "delete", "acme"]) == 1
    assert "with --erase all of it" in capsys.readouterr().err
