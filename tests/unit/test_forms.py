"""Forms without a server: what goes together, which fields they have, and what a browser sends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from services.events.forms import _problems, warnings
from services.executor.domain import is_bundled, is_code
from services.gateway.api.headers import preflight
from services.gateway.api.pages import policy, refused_page
from services.gateway.form_bodies import SentFile, read
from services.gateway.form_fields import by_field, filled, initial, picked, shown
from services.gateway.forms import Forms, asked
from services.gateway.submissions import OpenForm, _path, misfits, unfit
from services.gateway.workflows import WorkflowLookup
from shared.errors import Malformed, NotFound, Problem, TooMany
from shared.health import Health
from shared.registry import Entry, RegistryView
from shared.resources.form import Form, FormEntry

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer", "title": "Amount"},
        "customer": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
            "required": ["name", "city"],
        },
        "tags": {"type": "array", "items": {"type": "string"}, "default": ["a"]},
        "photo": {"type": "object"},
        "paper": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "secret": {"type": "string", "default": "x"},
    },
    "required": ["amount", "customer", "photo"],
    "additionalProperties": False,
}
FIELDS = [
    {"name": "customer.city", "label": "City", "options": {"provider": "cities"}},
    {"name": "tags", "options": {"provider": "tags", "input": {"city": "customer.city"}}},
    {"name": "amount", "help": "In euros."},
    {"name": "photo", "file": {"types": ["image/*", ".pdf"]}},
    {"name": "paper", "file": {}},
    {"name": "gone"},
]
DOCUMENT = {"id": "f", "org": "o", "key": "f", "name": "f", "created_at": "", "updated_at": "", "version": 1}


def form(**fields: Any) -> Form:
    return msgspec.convert({"workflow": "w", "fields": FIELDS} | fields, Form)


def test_the_fields_are_those_that_are_named_in_their_order_and_no_others() -> None:
    found = asked(form(), SCHEMA)
    assert [(".".join(one.path), one.kind, one.is_required) for one in found] == [
        ("customer.city", "option", True),
        ("tags", "options", False),
        ("amount", "number", True),
        ("photo", "file", True),
        ("paper", "file", False),
    ]
    assert [one.label for one in found][:3] == ["City", "tags", "Amount"]
    assert (found[2].help, found[3].accept, found[3].is_text, found[4].is_text) == ("In euros.", "image/*,.pdf", False, True)
    # A form without fields asks for everything but what it gives itself; a group is named as a whole.
    every = asked(form(fields=[], input={"secret": "y", "photo": {}}), SCHEMA)
    assert [".".join(one.path) for one in every] == ["amount", "customer.name", "customer.city", "tags", "paper"]
    assert [".".join(one.path) for one in asked(form(fields=[{"name": "customer"}]), SCHEMA)] == ["customer.name", "customer.city"]


def test_choices_are_named_by_their_value_and_not_by_their_place() -> None:
    fields = asked(form(), SCHEMA)
    city, tags = fields[:2]
    city = msgspec.structs.replace(city, choices=(7, "Wien"), labels=("<Seven>", "Vienna"))
    tags = msgspec.structs.replace(tags, choices=("a", "b"), labels=("A", "B"))
    html = shown([city, tags], {city.name: '"Wien"', tags.name: '"a"\n"b"'}, {})
    assert '<option value="&quot;Wien&quot;" selected>Vienna' in html
    assert "&lt;Seven&gt;" in html
    assert html.count(" selected") == 3
    data, problems = filled([city, tags], {city.name: "7", tags.name: '"b"\n"c"'})
    assert (data, problems) == ({"customer": {"city": 7}, "tags": ["b", "c"]}, [])
    assert initial([city, tags]) == {"tags": ["a"]}


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "1e999", '"\\ud800"', '{"a": 1, "a": 2}', "NaN", "\x00"])
def test_what_is_no_value_stays_text_for_the_schema_to_judge(text: str) -> None:
    fields = asked(form(), SCHEMA)
    kinds = [msgspec.structs.replace(fields[2], kind=kind, choices=(1, 2)) for kind in ("number", "json", "choice", "option")]
    for field in kinds:
        assert filled([field], {field.name: text}) == ({"amount": text}, [])


def test_a_program_gives_what_is_asked_for_and_a_complaint_finds_its_field() -> None:
    fields = asked(form(), SCHEMA)
    values = {"customer": {"city": "Wien", "name": "Ada"}, "amount": 1, "secret": "z", "photo": {"path": "/etc"}}
    assert picked(fields, values) == {"customer": {"city": "Wien"}, "amount": 1}
    problems = [Problem("input.customer.city", "a"), Problem("input.tags[0].x", "b"), Problem("input", "c"), Problem("check", "d")]
    assert by_field(fields, problems) == {"data.customer.city": "a", "data.tags": "b", "data": "c", "check": "d"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"fields": [{"name": "a b"}]}, "fields[0].name"),
        ({"fields": [{"name": "a"}, {"name": "a"}]}, "fields[1].name"),
        (
            {"fields": [{"name": "a", "options": {"provider": "p", "input": {"x": "b"}}}, {"name": "b"}]},
            "fields[0].options.input.x",
        ),
        ({"fields": [{"name": "a", "options": {"provider": "p"}, "file": {}}]}, "fields[0].file"),
        ({"fields": [{"name": "a", "file": {"types": ["any thing"]}}]}, "fields[0].file.types"),
        ({"fields": [{"name": f"f{n}", "file": {"most_bytes": 20_000_000}} for n in range(2)]}, "fields"),
        ({"fields": [{"name": "a.b"}], "input": {"a": 1}}, "fields[0].name"),
        ({"input": {"a": "x" * 70_000}}, "fields"),
        ({"burst": 5}, "burst"),
        ({"access": "link", "embed_on": ["https://www.example.com/page"]}, "embed_on"),
        ({"access": "link", "embed_on": ["https://a.example; script-src *"]}, "embed_on"),
        ({"embed_on": ["https://www.example.com"]}, "embed_on"),
        ({"check": {"verify": "https://v.example/verify"}}, "check_secret"),
        ({"check": {"verify": "ftp://v.example/"}}, "check_secret check.verify"),
        ({"check": {"verify": "https://v.example/v", "script": "https://a.example/x.js;"}}, "check_secret check.script"),
        ({"check": {"verify": "https://v.example/v", "frames": ["https://a.example *"]}}, "check_secret check.frames"),
        ({"check": {"verify": "https://v.example/v", "element": 'x" onload="y'}}, "check_secret check.element"),
    ],
)
def test_what_does_not_go_together_is_named(fields: dict[str, Any], path: str) -> None:
    found = [one.path for one in _problems(form(**{"fields": []} | fields), has_secret=False)]
    assert found == path.split()


def test_a_form_that_could_not_start_its_workflow_is_warned_of() -> None:
    assert [*_problems(form(), has_secret=False)] == []
    assert [one.path for one in warnings(form(), {})] == ["fields[0].options.provider", "fields[1].options.provider", "workflow"]


def test_a_form_with_files_is_read_as_browsers_send_it() -> None:
    parts = (
        b'--x\r\nContent-Disposition: form-data; name="f.a"\r\n\r\nfirst\r\nline\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f.a"\r\n\r\nsecond\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f.b"; filename="r\xc3\xa9sum\xc3\xa9.pdf"\r\n'
        b"Content-Type: application/PDF; q=1\r\n\r\n\x00\r\n\xff--x\r\n"
        b'--x\r\nContent-Disposition: form-data; name="f.c"; filename=""\r\nContent-Type: a/b\r\n\r\n\r\n--x--\r\n'
    )
    sent = read(parts, "multipart/form-data; boundary=x")
    assert sent.texts == {"f.a": "first\r\nline\nsecond"}
    assert sent.files == {"f.b": SentFile("résumé.pdf", "application/pdf", b"\x00\r\n\xff--x")}
    assert read(b"f.a=1&f.a=2&f.b=", "application/x-www-form-urlencoded").texts == {"f.a": "1\n2", "f.b": ""}
    for body, kind in ((b"no parts", "multipart/form-data"), (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x")):
        with pytest.raises(Malformed):
            read(body, kind)
    with pytest.raises(Malformed):
        read(b"a=" + b"x" * 300_000, "")


@given(st.binary(max_size=2000), st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data", "", "text/plain"]))
def test_whatever_is_sent_is_read_or_refused(body: bytes, kind: str) -> None:
    for one in (body, b"--x\r\n" + body, b'--x\r\nContent-Disposition: form-data; name="a"\r\n' + body + b"\r\n--x--"):
        try:
            read(one, kind)
        except Malformed:
            continue


@given(st.text(max_size=300))
def test_a_file_that_is_sent_is_never_code(name: str) -> None:
    run = "0198c9a8-7a3e-7000-8000-000000000000"
    path = _path(run, "photo", SentFile(name, "", b""), "f" * 64)
    assert not is_code(path)
    assert not is_bundled(path)
    assert path.startswith(f"artifacts/{run}/sent/photo-ffffffffffffffff")
    assert path.isascii()
    assert "/." not in path


def test_a_page_stands_in_frames_of_its_form_alone_and_runs_the_one_script() -> None:
    assert "frame-ancestors 'none'" in policy()
    assert "script-src" not in policy(ancestors=["https://www.example.com"])
    found = policy(ancestors=["https://www.example.com"], script="https://c.example/api.js?render=explicit")
    assert "frame-ancestors https://www.example.com;" in found + ";"
    assert "script-src https://c.example/api.js;" in found
    assert "frame-src https://c.example;" in found


@pytest.mark.parametrize(
    ("path", "origin", "is_told"),
    [
        ("/api/v1/forms/f-1/submissions", "https://a.example", True),
        ("/api/v1/forms/f-1/fields?link=x", "https://a.example", True),
        ("/api/v1/forms/f-1/submissions", "https://b.example", False),
        ("/api/v1/forms/f-1/submissions", "", False),
        ("/api/v1/forms/f-2/submissions", "https://a.example", False),
        ("/api/v1/forms/gone/submissions", "https://a.example", False),
        ("/api/v1/forms/f-1/links", "https://a.example", False),
        ("/api/v1/forms/f-1", "https://a.example", False),
        ("/api/v1/forms/f-1/submissions/", "https://a.example", False),
    ],
)
async def test_a_browser_may_send_json_from_pages_that_show_the_form_and_from_no_others(
    path: str, origin: str, *, is_told: bool
) -> None:
    async def find(*_: Any) -> Any:
        raise NotFound("there is none")

    broker: Any = None
    view = RegistryView(broker, "forms", FormEntry, Health("gateway"))
    for id_, embed_on in (("f-1", ["https://a.example"]), ("f-2", [])):
        spec = {"workflow": "w", "access": "public", "embed_on": embed_on}
        view.learn(id_, Entry(1, msgspec.convert(DOCUMENT | {"spec": spec}, FormEntry)))
    gateway: Any = SimpleNamespace(cors_origins=frozenset(), forms=Forms(view, find, broker))
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    told = await preflight(gateway, make_mocked_request("OPTIONS", path, headers=headers))
    assert (told is not None) == is_told
    if told is not None:
        assert (told.status, told.headers["Access-Control-Allow-Origin"], told.headers["Vary"]) == (204, origin, "Origin")
        assert told.headers["Access-Control-Allow-Headers"] == "Content-Type, Idempotency-Key"
    assert await preflight(gateway, make_mocked_request("OPTIONS", path, headers={"Origin": origin})) is None


def test_help_and_complaints_stand_in_lines_of_their_own() -> None:
    field = msgspec.structs.replace(asked(form(), SCHEMA)[2], help="Boxes of <ten>.")
    for kind in ("number", "flag"):
        lines = shown([msgspec.structs.replace(field, kind=kind)], {}, {"data.amount": "is wrong"}).splitlines()
        assert '<div class="of" id="f.amount-help">Boxes of &lt;ten&gt;.</div>' in lines
        assert any('<div class="bad" id="f.amount-wrong">is wrong</div>' in line for line in lines)
        assert 'aria-describedby="f.amount-help f.amount-wrong"' in "".join(lines)


def test_all_that_is_wrong_with_a_form_is_told_at_once() -> None:
    form_ = msgspec.convert(DOCUMENT | {"spec": {"workflow": "w", "fields": FIELDS}}, FormEntry)
    workflow: Any = SimpleNamespace(org="o", name="w", version="v", input_schema=SCHEMA)
    nothing: Any = None
    gateway: Any = SimpleNamespace(workflows=WorkflowLookup(nothing, nothing))
    of = OpenForm(form=form_, workflow=workflow, fields=asked(form_.spec, SCHEMA))

    def told(data: dict[str, Any], **files: SentFile) -> list[str]:
        found = misfits(of, of.fields, data, files)
        return [one.path for one in (*found, *unfit(gateway, of, data, found))]

    photo = SentFile("a.pdf", "application/pdf", b"")
    wrong = {"customer": {}, "tags": ["a", 1], "amount": "many", "secret": 5}
    # Neither the field of a file, which comes in when the form is sent, nor what nobody is asked for is complained about.
    code = SentFile("a.py", "text/plain", b"")
    assert told(wrong, photo=code) == [
        "input.customer.city",
        "input.tags",
        "input.photo",
        "input.amount",
    ]
    assert told({"customer": {"city": "Wien"}}, photo=photo) == ["input.customer.city", "input.amount"]


@pytest.mark.parametrize(("after", "words"), [(None, "Ask who sent"), (0.2, "in 1 second<"), (41.3, "in 42 seconds<")])
def test_a_page_says_when_to_try_again(after: float | None, words: str) -> None:
    page = refused_page("Wait", TooMany("this is sent too often", retry_after=after), "Ask who sent you here")
    assert words in str(page.text)
    assert page.headers.get("Retry-After") == (None if after is None else words.split()[1])
