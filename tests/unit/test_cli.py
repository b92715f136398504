"""The parts of the command that decide something by themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import pytest

from millrace import Request
from millrace.cli import codes, login, show
from millrace.cli.api import Api, Refused, address
from millrace.cli.deliveries import runs_of
from millrace.cli.deployment import Deployed
from millrace.cli.folder import files_of, plan
from millrace.cli.hooks import header
from millrace.cli.ids import whole
from millrace.cli.lines import audited, written
from millrace.cli.signing import Sending, event_header, request_of
from millrace.cli.stream import Event, events
from millrace.cli.times import ago, ahead, moment, understood
from millrace.cli.values import fitting, pairs, secret
from millrace.cli.workspace import ending, report, show_serving
from services.events.adapters import ADAPTERS, DESCRIPTIONS, verification_of
from shared.runs import ENDED
from shared.verification import Verification
from tests.support.senders import endpoint, reason, request

KEY, HEX = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "44782def547aaa06c910c43932b1eb0c"
URL = "https://hooks.example/hooks/s"
NOW = 1_700_000_000
# Adapters whose requests nobody but the sender can sign.
UNSIGNABLE = {
    "discord": "the private key of ed25519",
    "http-signatures": "by something else than an HMAC or a fixed token",
    "jwt": "by something else than an HMAC or a fixed token",
    "microsoft-graph": "each item of value in the body",
    "sendgrid": "the private key of ecdsa-p256-sha256",
    "sns": "the private key of rsa-v1_5-sha256",
    "telnyx": "the private key of ed25519",
}
SIGNABLE = sorted(name for name, one in ADAPTERS.items() if one.sample is not None and name not in UNSIGNABLE)
HMAC: list[dict[str, Any]] = [
    {"header": "X-Signed", "algorithm": "sha512", "encoding": "base64", "prefix": "v0="},
    {"header": "X-Signed", "algorithm": "sha1", "event_header": "X-Event", "delivery_header": "X-Id"},
]


def source_of(adapter: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"adapter": adapter, "settings": settings or {}, "verification": verification_of(adapter, settings or {})}


def sending_of(adapter: str) -> Sending:
    sample = ADAPTERS[adapter].sample
    assert sample is not None
    body = sample.body.replace("1676056940508", f"{NOW}000")  # the time of Linear is in the body
    return Sending(URL, body.encode(), "delivery-1", NOW, tuple(sample.headers.items()))


def judged(source: dict[str, Any], made: Request, key: str) -> str | None:
    """Return why the gateway refuses a request, None where it takes it."""
    declared = msgspec.convert(source["verification"], Verification)
    names = {name for one in (*declared.schemes, *declared.handshakes) for name in one.keys}
    received = request(made.body, made.headers, target=made.url.removeprefix("https://hooks.example"))
    return reason(endpoint(declared, **dict.fromkeys(names, key)).verifier, received, NOW)


@pytest.mark.parametrize(("adapter", "settings"), [*((name, {}) for name in SIGNABLE), *(("hmac", one) for one in HMAC)], ids=str)
def test_the_gateway_takes_what_is_signed_and_nothing_that_was_changed_since(adapter: str, settings: dict[str, Any]) -> None:
    source, sending = source_of(adapter, settings), sending_of(adapter)
    key = HEX if adapter == "adyen" else KEY
    made = request_of(source, sending, key)
    assert judged(source, made, key) is None
    schemes = msgspec.convert(source["verification"], Verification).schemes
    if {one.algorithm for one in schemes} <= {"token", "none"}:
        return
    assert judged(source, replace(made, body=made.body + b" "), key) is not None
    assert judged(source, request_of(source, sending, None), key) is not None
    # What is given stays as it is.
    again = request_of(source, replace(sending, headers=tuple(made.all_headers)), None)
    assert dict(again.headers) == dict(made.headers)
    header = schemes[0].delivery.header if schemes[0].delivery else None
    if header is not None and header not in {name.lower() for name, _ in sending.headers}:
        assert made.headers[header] == "delivery-1"


@pytest.mark.parametrize("adapter", sorted(UNSIGNABLE))
def test_what_cannot_be_signed_says_why(adapter: str) -> None:
    with pytest.raises(ValueError, match=f"cannot sign for the adapter {adapter}: .*{UNSIGNABLE[adapter]}"):
        request_of(source_of(adapter), sending_of(adapter), KEY)


def test_a_key_in_the_wrong_form_and_a_declaration_of_a_later_version_are_named() -> None:
    with pytest.raises(ValueError, match="a key is no base64"):
        request_of(source_of("standard-webhooks"), sending_of("standard-webhooks"), "whsec_!")
    later = {"adapter": "acme", "settings": {}, "verification": {"schemes": [{"signature": {"cookie": "sign"}}]}}
    with pytest.raises(ValueError, match="this version cannot read how the source is verified"):
        request_of(later, sending_of("github"), KEY)
    with pytest.raises(ValueError, match="acme is not in service"):
        request_of(later | {"verification": None}, sending_of("github"), KEY)


def test_github_is_signed_as_github_documents_it() -> None:
    made = request_of(source_of("github"), Sending(URL, b"Hello, World!", "id", 0), "It's a Secret to Everybody")
    assert made.headers["x-hub-signature-256"] == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_the_header_of_an_event_is_that_of_the_settings_or_of_the_adapter_s_example() -> None:
    adapters = [msgspec.to_builtins(one) for one in DESCRIPTIONS.values()]
    assert event_header(source_of("hmac", {"event_header": "X-Event"}), adapters) == "X-Event"
    assert event_header(source_of("github"), adapters) == "X-GitHub-Event"
    assert event_header(source_of("stripe"), adapters) is None
    assert event_header(source_of("gone"), adapters) is None


def test_a_body_is_sent_unsigned_to_a_source_of_any_adapter() -> None:
    unsigned = request_of(source_of("slack"), Sending(URL, b"{}", "id", 0), None)
    assert unsigned.headers == {"content-type": "application/json"}
    assert request_of({"adapter": "gone", "settings": {}}, Sending(URL, b"x", "id", 0), None).headers == {
        "content-type": "text/plain; charset=utf-8"
    }


ROOT = {"$defs": {"Size": {"enum": ["small", "large"]}, "Point": {"type": "object"}}}


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("5", {"type": "integer"}, 5),
        ("5", {"type": "number"}, 5),
        ("5", {"type": "string"}, "5"),
        ("true", {"type": "string"}, "true"),
        ("true", {"type": ["boolean", "null"]}, True),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("5", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 5),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ('{"x": 1}', {"$ref": "#/$defs/Point"}, {"x": 1}),
        ("small", {"$ref": "#/$defs/Size"}, "small"),
        ("5", {"$ref": "#/$defs/Size"}, "5"),
        ("five", {"type": "integer"}, "five"),
        ("5.5", {"type": "integer"}, 5.5),
        ("5", {}, 5),
        ("five", {}, "five"),
        ("", {"type": "string"}, ""),
        ("a=b", {"type": "string"}, "a=b"),
    ],
)
def test_a_typed_value_is_what_the_schema_takes(text: str, wanted: dict[str, Any], value: object) -> None:
    assert fitting(text, wanted, ROOT) == value
    assert type(fitting(text, wanted, ROOT)) is type(value)
    assert pairs([f"name={text}"], {"properties": {"name": wanted}, **ROOT}, "-i") == {"name": value}


@pytest.mark.parametrize("pair", ["name", "=5", ""])
def test_an_input_that_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(click.UsageError):
        pairs([pair], {}, "-i")


def test_a_secret_loses_the_line_end_of_its_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for written_, read in [
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" s3cret \n\n", " s3cret \n"),
        (b"s3cret", "s3cret"),
    ]:
        file.write_bytes(written_)
        assert secret(str(file), "secret") == read
    file.write_bytes(b"\xff")
    with pytest.raises(click.UsageError, match="is not text"):
        secret(str(file), "secret")


def test_a_workspace_holds_no_hidden_files_no_caches_and_no_environment(tmp_path: Path) -> None:
    kept = {"a.py", "requirements.txt", "data/template.html", "data/deep/b.py"}
    left_out = {
        ".git/config",
        ".venv/x.py",
        "env/pyvenv.cfg",
        "env/lib/c.py",
        "__pycache__/a.pyc",
        ".hidden",
        "a.py~",
        "data/b.pyc",
    }
    for name in kept | left_out:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "linked.py").symlink_to(tmp_path / "a.py")
    (tmp_path / "e\N{COMBINING ACUTE ACCENT}t\N{COMBINING ACUTE ACCENT}.py").write_text("")
    found = files_of(tmp_path)
    assert set(found.files) == kept | {"linked.py", "\u00e9t\u0301.py"}
    assert found.left_out == {}


def test_only_what_differs_is_sent_and_code_comes_last() -> None:
    local = {"z.html": "1", "b.py": "1", "a.py": "2", "requirements.txt": "1", "same.py": "7"}
    remote = {"a.py": "1", "same.py": "7", "old.py": "1", "old.html": "1"}
    planned = plan(local, remote)
    assert planned.changed == ["z.html", "a.py", "b.py", "requirements.txt"]
    assert planned.gone == ["old.html", "old.py"]


def test_a_path_is_quoted_part_by_part_and_what_is_not_asked_is_left_out() -> None:
    assert address("/runs", "a/b ü", query={"limit": 3, "cursor": None, "q": "x:y z"}) == "/runs/a%2Fb%20%C3%BC?limit=3&q=x%3Ay+z"
    assert address("/runs") == "/runs"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"detail": "there is no run 'x'."}, "there is no run 'x'"),
        (
            {
                "detail": "the input does not fit: bad",
                "errors": [{"path": "input.n", "message": "bad"}, {"path": "m", "message": "worse"}],
            },
            "the input does not fit: bad (input.n; m: worse)",
        ),
        ({"title": "Conflict"}, "Conflict"),
        ({"detail": "two\nlines"}, "two lines"),
        ({"detail": "red \x1b[31m"}, "red \\x1b[31m"),
        (None, "the answer was 502"),
        (["odd"], "the answer was 502"),
        ({"detail": "odd", "errors": ["odd", 3]}, "odd"),
    ],
)
def test_a_refusal_is_one_sentence_that_names_every_path(document: object, sentence: str) -> None:
    assert str(Refused(502, document)) == sentence


def test_a_refusal_for_too_much_says_when_to_try_again() -> None:
    assert str(Refused(429, {"detail": "the key has used up its rate for now"}, "3")).endswith("for now: try again in 3 s")
    assert str(Refused(404, {"detail": "it is not there"}, "3")) == "it is not there"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"category": "session", "verb": "open"}, " (session)"),
        (
            {"category": "access", "detail": {"reason": "create_run", "method": "POST", "path": "/api/\x1b[2J"}},
            " (access: create_run, POST /api/\\x1b[2J)",
        ),
        ({"category": "webhook", "detail": {"reason": "bad signature"}}, " (webhook)"),
        ({"detail": 5}, ""),
        (None, ""),
    ],
)
def test_an_audited_action_says_what_it_was_about(data: object, said: str) -> None:
    assert audited({"stream": "AUDIT", "message": "a refused s: invalid (bad signature)", "data": data}) == said
    assert not audited({"stream": "RUNS", "message": "", "data": data})


@pytest.mark.parametrize(
    ("given", "asked"), [("1h", "now-1h"), ("15m", "now-15m"), ("now-1h", "now-1h"), ("2026-01-01", "2026-01-01"), (None, None)]
)
def test_since_says_how_long_ago_or_when(given: str | None, asked: str | None) -> None:
    assert ago(given) == asked


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("1h", "2026-01-02T09:00:00Z"),
        ("now-2d", "2025-12-31T10:00:00Z"),
        ("500ms", "2026-01-02T09:59:59.500000Z"),
        ("2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00+02:00"),
        ("999999999w", "999999999w"),
        ("soon", "soon"),
        (None, None),
    ],
)
def test_lists_are_asked_for_the_moment_itself(given: str | None, asked: str | None) -> None:
    assert moment(given, datetime(2026, 1, 2, 10, tzinfo=UTC)) == asked


def test_json_for_a_terminal_is_the_same_json() -> None:
    value = {"a\x1b[2J": ["\x9b31m", "\u202e", "\x7f", "\\u0041", "é\n"]}
    for indent in (None, 2):
        printed = show.harmless(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(printed) == value
        assert not set("\x1b\x9b\u202e\x7f") & set(printed)


def test_what_a_sender_wrote_cannot_speak_to_the_terminal() -> None:
    assert show.plain("a\x1b[2J\x07\x9b31m\u202eb\rc\td\ne") == "a\\x1b[2J\\x07\\x9b31m\\u202eb\\x0dc\td\ne"
    assert show.plain("\ud800") == "\\ud800"
    item = {
        "n": 1,
        "attempt": 1,
        "line": {"time": "2026-01-01T10:00:00.123456Z", "level": "info", "message": "\x1b]0;x", "fields": {"\x1b": "\x07", "b": 1}},
    }
    assert written(item) == "10:00:00.123 info    \\x1b]0;x \\x1b=\\x07 b=1"


def test_every_end_of_a_run_has_its_own_exit_code() -> None:
    assert codes.ENDS.keys() == set(ENDED)
    every = [*codes.ENDS.values(), codes.REFUSED, codes.USAGE, codes.UNREACHABLE, codes.STILL_RUNNING, codes.INTERRUPTED]
    assert len(set(every)) == len(every)


def test_connections_that_are_broken_or_end_soon_come_first() -> None:
    from millrace.cli.connections import urgency

    shown = [
        ("static", "active", None),
        ("later", "healthy", "2026-01-02T00:00:00Z"),
        ("endless", "healthy", None),
        ("sooner", "healthy", "2026-01-01T00:00:00Z"),
        ("waits", "pending", None),
        ("failing", "degraded", "2026-01-01T00:00:00Z"),
        ("ended", "needs_reauthorization", None),
        ("locked", "quarantined", None),
    ]
    rows = [{"name": name, "status": status, "expires_at": ends} for name, status, ends in shown]
    names = [row["name"] for row in sorted(rows, key=urgency)]
    assert names == ["locked", "ended", "failing", "waits", "sooner", "later", "endless", "static"]


def test_no_option_of_any_command_takes_a_key_or_a_secret_itself() -> None:
    from millrace.cli.program import program

    def options(group: click.Group) -> Iterator[tuple[str, click.Option]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from options(command)
            yield from ((name, option) for option in command.params if isinstance(option, click.Option))

    suspicious = {
        (name, option.opts[0], option.metavar)
        for name, option in options(program)
        if any(word in " ".join(option.opts) for word in ("key", "secret", "token", "password"))
    }
    # The `--key` of a run and of a rerun is an idempotency key, which grants nothing, and its `--concurrency-key` says with whom it
    # takes turns, as the `--key` of a subscription does; a provider's `--key-id` names a key for everybody.
    assert suspicious == {
        ("run", "--key", None),
        ("rerun", "--key", None),
        ("run", "--concurrency-key", None),
        ("put", "--key", None),
        ("patch", "--key", None),
        ("preview", "--key", None),
        ("put", "--key-id", None),
        ("patch", "--key-id", None),
        # Of repositories: the name of the secret.
        ("put", "--secret", None),
        ("patch", "--secret", None),
        # And the public key of their host.
        ("put", "--host-key", None),
        ("patch", "--host-key", None),
        ("put", "--secret", "NAME[=FILE]"),
        ("map", "--secret", "NAME[=FILE]"),
        ("put", "--token-file", "FILE"),
        ("patch", "--secret", "NAME[=FILE]"),
        ("patch", "--token-file", "FILE"),
        # Of forms: what tells people from programs.
        ("put", "--check-secret-file", "FILE"),
        ("patch", "--check-secret-file", "FILE"),
        # Of providers: where and how tokens are asked for.
        ("put", "--client-secret-file", "FILE"),
        ("put", "--token-url", None),
        ("put", "--token-parameters", "JSON|@FILE|-"),
        ("put", "--token-format", None),
        ("put", "--token-headers", "JSON|@FILE|-"),
        ("put", "--token-path", None),
        ("patch", "--client-secret-file", "FILE"),
        ("patch", "--token-url", None),
        ("patch", "--token-parameters", "JSON|@FILE|-"),
        ("patch", "--token-format", None),
        ("patch", "--token-headers", "JSON|@FILE|-"),
        ("patch", "--token-path", None),
        ("export", "--secrets", None),
        ("send", "--secret-file", "FILE"),
    }


def test_a_time_to_come_is_told_from_now_or_passed_on() -> None:
    now = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert ahead("+90m", now) == "2026-01-31T11:00:00Z"
    for text in ("2026-02-01T00:00:00Z", "1h", "+soon", "+999999999w"):
        assert ahead(text, now) == text


@pytest.mark.parametrize("given", ["bogus", "", "2026-13-01", "+1h", "1h ago"])
def test_a_time_that_is_none_is_refused_with_how_one_is_written(given: str) -> None:
    with pytest.raises(click.UsageError, match=r"--since takes a time, 1h \(ago\), or RFC 3339"):
        understood(ago(given), "--since", "1h (ago)")


@pytest.mark.parametrize("given", ["1h", "now-1h", "now", "2026-01-01", "2026-01-01T00:00:00Z", "1767225600000", None])
def test_a_time_as_the_server_takes_it_passes(given: str | None) -> None:
    assert understood(ago(given), "--since", "1h (ago)") == ago(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no colon", "takes NAME:VALUE"),
        (": value", "takes NAME:VALUE"),
        ("X Y: 1", "'X Y' is no name of a header"),
        ("content-length: 3", "The header content-length is worked out from the body"),
        ("Transfer-Encoding: chunked", "The header Transfer-Encoding is worked out"),
    ],
)
def test_a_header_that_cannot_be_sent_is_named(given: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        header(given)


def test_a_list_that_is_no_json_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace.cli.program import program

    monkeypatch.setenv("MILLRACE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MILLRACE_KEY", "mr_key")
    with pytest.raises(click.UsageError, match=r"--hosts takes a JSON list, such as .*, not 'api.example'"):
        program.main(["providers", "put", "hub", "--hosts", "api.example", "--dry-run"], standalone_mode=False)


def test_a_run_that_waits_says_for_what() -> None:
    run = {"id": "r", "workflow": "w", "status": "waiting", "reason": None, "duration_ms": None, "attempt": 0}
    assert ending(run | {"blocked_on": "concurrency"}) == "run r w waiting (blocked on concurrency), attempt 0"


def test_what_serves_is_shown_with_its_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    flows = {"path": "flows.py", "workflows": ["greet", "nap"], "adapters": []}
    show_serving([flows, {"path": "page.html", "workflows": [], "adapters": []}])
    assert "adapters" not in capsys.readouterr().out
    show_serving([flows, {"path": "adapters/acme.py", "workflows": [], "adapters": ["acme"]}])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["flows.py", "greet,", "nap"], ["adapters/acme.py", "acme"]]
    assert rows[0][-1].lower() == "adapters"


def test_a_problem_is_looked_for_in_the_folder_only_if_its_file_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [{"path": path, "line": 1, "message": "bad"} for path in ("mine.py", "fine.py")]
    report(Deployed(unchanged=1, kept=["fine.py"], problems=problems, own=frozenset({"mine.py"})), Path("lab"))
    told = capsys.readouterr()
    assert told.out == "nothing has changed in 1 file\n"
    assert told.err.splitlines() == [
        "1 deployed file is not in lab; --prune deletes what is not there: fine.py",
        "lab/mine.py:1: bad",
        "fine.py:1: bad",
    ]


def test_an_empty_id_is_the_beginning_of_none() -> None:
    with pytest.raises(click.UsageError, match="ID is empty"):
        whole(Api("http://127.0.0.1:1"), "/runs", "")


def test_events_are_read_whole_or_not_at_all() -> None:
    lines = [
        ": here\n",
        "\n",
        "id: 1.0\n",
        "event: state\n",
        'data: {"a": "b: c"}\n',
        "\n",
        "id: 2.0\n",
        "event: line\n",
        "data: 1\n",
    ]
    assert list(events(lines)) == [Event("1.0", "state", {"a": "b: c"})]
    assert list(events([*lines, "\n", "event: er"]))[1:] == [Event("2.0", "line", 1)]


@pytest.mark.parametrize(("page", "opened"), [("https://m.example/device", 1), ("file:///etc/passwd", 0), ("--profile=/tmp/x", 0)])
def test_a_sign_in_opens_a_page_and_nothing_else_that_a_server_names(
    monkeypatch: pytest.MonkeyPatch, page: str, opened: int
) -> None:
    begun = {"verification_uri": "https://m.example/device", "verification_uri_complete": page, "user_code": "BCDF-GHJK"}
    answers = [begun | {"device_code": "d", "expires_in": 600, "interval": 0}, {"key": "mr_1"}]

    class Server:
        def call(self, *_path: str, body: Any) -> Any:
            return answers.pop(0)

    pages: list[str] = []
    monkeypatch.setattr(login.webbrowser, "open", pages.append)
    monkeypatch.setattr(login.sys, "stdout", Terminal())
    assert login._granted(cast("Api", Server()), {"host": "build-7"}) == {"key": "mr_1"}
    assert pages == [page] * opened


class Terminal(io.StringIO):
    """Somebody who looks."""

    def isatty(self) -> bool:
        return True


def test_a_delivery_is_listed_with_what_its_runs_came_to_and_whom_it_woke() -> None:
    failed = {"id": "a", "workflow": "pay", "status": "failed", "resumes": None}
    mended = {"id": "b", "workflow": "pay", "status": "succeeded", "resumes": "a"}
    other = {"id": "c", "workflow": "tell", "status": "running"}
    assert runs_of({"runs": [failed, mended, other], "woken": [{"run": "d"}]}) == ("pay succeeded (resumed), tell running, woke d")
