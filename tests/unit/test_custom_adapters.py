"""Adapters as authors declare them, and what is made of their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

import millrace
from millrace import (
    Event,
    Given,
    Handshake,
    MessageSignature,
    Place,
    Registering,
    Request,
    Response,
    Scheme,
    Setting,
    Unverified,
    WebToken,
    adapter,
    testing,
)
from millrace._adapters import answered
from millrace._declare import REGISTRY
from services.events.adapters import ADAPTERS
from services.executor.sandbox.described import description
from services.executor.sandbox.interface import DeclaredAdapter
from shared import verification
from shared.registering import DeclaredRegistering
from shared.resources.source import BUILT_IN, COMMON_SETTINGS


class Plain:
    def parse(self, request: Request) -> Event:
        return Event("plain", request.text())


def told(target: Any, **declared: Any) -> dict[str, Any]:
    adapter(**declared)(target)
    found = REGISTRY.pop()
    return {
        "name": found.name,
        "module": "adapters.one",
        "path": "adapters/one.py",
        "line": 3,
        "function": found.function.__qualname__,
        "doc": None,
        "declaration": found.adapter,
    }


def judged(target: Any, **declared: Any) -> DeclaredAdapter | str:
    found = description([], [], [told(target, **declared)])
    return found.adapters[0] if found.adapters else found.problems[0].message


def test_the_names_of_built_in_adapters_are_taken() -> None:
    assert set(ADAPTERS) == BUILT_IN
    assert set(COMMON_SETTINGS) <= set(ADAPTERS["github"].schema["properties"])


def fields_and_defaults(ours: Any, theirs: Any, without: set[str]) -> list[str]:
    """Return the names of fields, which are the same on both sides, in one order and with the same defaults."""
    own = {field.name: field for field in dataclasses.fields(ours)}
    their = {field.name: field for field in msgspec.structs.fields(theirs) if field.name not in without}
    assert list(own) == list(their)
    for name, field in own.items():
        usual, expected = field.default, their[name].default
        if field.default_factory is not dataclasses.MISSING:
            usual = field.default_factory()
        if their[name].default_factory is not msgspec.NODEFAULT:
            expected = their[name].default_factory()
        if (usual, expected) == (dataclasses.MISSING, msgspec.NODEFAULT):
            continue
        assert (list(usual) if isinstance(expected, list) else usual) == expected, name
    return list(own)


def test_a_registering_that_an_author_declares_is_what_sources_are_registered_by() -> None:
    assert fields_and_defaults(Registering, DeclaredRegistering, set())


@pytest.mark.parametrize(
    ("ours", "theirs", "without"),
    [
        (Place, verification.Place, set()),
        (Scheme, verification.SignatureScheme, {"certificate"}),
        (WebToken, verification.WebToken, set()),
        (MessageSignature, verification.MessageSignature, set()),
        (Handshake, verification.Handshake, {"visit"}),
    ],
)
def test_what_an_author_declares_is_what_the_gateway_reads(ours: Any, theirs: Any, without: set[str]) -> None:
    own = fields_and_defaults(ours, theirs, without)
    hints, their_hints = get_type_hints(ours), get_type_hints(theirs)
    for name in own:
        assert shape_of(hints[name]) == shape_of(their_hints[name]), name


def shape_of(hint: Any) -> Any:
    """Return a type as both sides may write it: the literals of a union together, classes by their names, mappings as one kind."""
    if get_origin(hint) is Literal:
        return frozenset(get_args(hint))
    if get_origin(hint) in {Union, UnionType}:
        parts = map(shape_of, get_args(hint))
        return frozenset[Any]().union(*(part if isinstance(part, frozenset) else {str(part)} for part in parts))
    if get_args(hint):
        names = {dict: "mapping", Mapping: "mapping"}
        return names.get(get_origin(hint), str(get_origin(hint))), *map(shape_of, get_args(hint))
    return str(getattr(hint, "__name__", hint))


def test_a_scheme_arrives_as_it_was_declared() -> None:
    declared = Scheme(
        algorithm="hmac-sha512",
        signature=Place(header="x-sign", separator=",", prefix="v1="),
        template="{timestamp}.{id}.{body}",
        values={"id": Place(header="x-id")},
        timestamp=Place(header="x-time"),
        when=((Place(header="x-kind"), "event"),),
        delivery=Place(json="id"),
    )
    greeting = Handshake(when=((Place(query="mode"), "subscribe"),), challenge=Place(query="challenge"), json={"c": "{challenge}"})
    found = judged(Plain, scheme=declared, handshakes=[greeting], methods=["PUT"], content_types=["application/json"])
    assert isinstance(found, DeclaredAdapter)
    read = msgspec.convert(found.declaration.verification, verification.Verification)
    assert read == verification.Verification(
        schemes=(
            verification.SignatureScheme(
                algorithm="hmac-sha512",
                signature=verification.Place(header="x-sign", separator=",", prefix="v1="),
                template="{timestamp}.{id}.{body}",
                values={"id": verification.Place(header="x-id")},
                timestamp=verification.Place(header="x-time"),
                when=((verification.Place(header="x-kind"), "event"),),
                delivery=verification.Place(json="id"),
            ),
        ),
        handshakes=(
            verification.Handshake(
                when=((verification.Place(query="mode"), "subscribe"),),
                challenge=verification.Place(query="challenge"),
                json={"c": "{challenge}"},
            ),
        ),
        methods=("PUT",),
        content_types=("application/json",),
    )


BEARER = Place(header="authorization", prefix="Bearer ")


def test_tokens_and_message_signatures_arrive_as_they_were_declared() -> None:
    by_set = WebToken(token=BEARER, algorithms=("RS256",), key_set="https://a.example/keys", audience=("here",))
    by_secret = WebToken(token=BEARER, algorithms=("HS256", "HS512"), keys=("secret",))
    message = MessageSignature(key_id="k", delivery=Place(json="id"))
    found = judged(Plain, scheme=[SIGNED, by_set, message, by_secret])
    assert isinstance(found, DeclaredAdapter)
    assert found.declaration.required == ["secret"]
    read, place = msgspec.convert(found.declaration.verification, verification.Verification), verification.Place
    bearer = place(header="authorization", prefix="Bearer ")
    assert read == verification.Verification(
        schemes=(verification.SignatureScheme(signature=place(header="x-sign")),),
        tokens=(
            verification.WebToken(token=bearer, algorithms=("RS256",), key_set="https://a.example/keys", audience=("here",)),
            verification.WebToken(token=bearer, algorithms=("HS256", "HS512"), keys=("secret",)),
        ),
        messages=(verification.MessageSignature(key_id="k", delivery=place(json="id")),),
    )


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (WebToken(token=BEARER, algorithms=("RS256",), key_set="https://a.example"), "has an audience or claims"),
        (WebToken(token=BEARER, algorithms=("RS256",), key_set="file:///etc", audience=("a",)), "at an https address"),
        (WebToken(token=BEARER, algorithms=("RS256", "HS256"), keys=("public_key",)), "for secrets, or others"),
        (WebToken(token=BEARER, algorithms=("HS256",), key_set="https://a.example", audience=("a",)), "for secrets, or others"),
        (WebToken(token=BEARER, algorithms=(), keys=("public_key",)), "for secrets, or others"),
        (WebToken(token=BEARER, algorithms=("none",), keys=("secret",)), "none"),  # type: ignore[arg-type]
        (WebToken(token=BEARER, algorithms=("RS256",)), "are not named, none of which is a setting"),
        # A public key that stood in a secret could be taken for one.
        (WebToken(token=BEARER, algorithms=("RS256",), keys=("secret",)), "none of which is a setting"),
        (WebToken(token=BEARER, algorithms=("HS256",), keys=("public_key",)), "none of which is a secret"),
        (MessageSignature(algorithm="ed25519"), "none of which is a setting"),
        (MessageSignature(keys=("public_key",)), "none of which is a secret"),
    ],
)
def test_a_token_or_a_message_signature_that_verifies_nothing_is_a_problem(scheme: Any, words: str) -> None:
    found = judged(Plain, scheme=scheme, secrets=["secret"], settings={"public_key": {"type": "string"}})
    assert words in str(found)


def test_tokens_and_message_signatures_are_left_to_the_platform() -> None:
    class Tokened(Plain):
        pass

    adapter(name="tokened", scheme=WebToken(token=BEARER, algorithms=("HS256",), keys=("secret",)))(Tokened)
    REGISTRY.pop()
    with pytest.raises(NotImplementedError, match="a WebToken is verified by the platform only"):
        testing.receive(Tokened, b"POST / HTTP/1.1\nAuthorization: Bearer x\n\n", secrets={"secret": "s"})


def test_places_of_credentials_are_not_kept_nor_parsed() -> None:
    places = [Place(header="x-pin"), Place(query="Pin")]
    found = judged(Plain, scheme=Scheme(algorithm="none"), credentials=places)
    assert isinstance(found, DeclaredAdapter)
    read = msgspec.convert(found.declaration.verification, verification.Verification)
    assert read.redacted == (verification.Place(header="x-pin"), verification.Place(query="Pin"))
    with pytest.raises(ValueError, match="a body is kept as it came"):
        adapter(scheme=SIGNED, credentials=[Place(json="pin")])(Plain)
    with pytest.raises(TypeError, match="credentials are places"):
        adapter(scheme=SIGNED, credentials=["x-pin"])(Plain)  # type: ignore[list-item]


@adapter(name="door", credentials=[Place(header="x-pin"), Place(query="pin")])
class Door:
    def verify(self, request: Request) -> bool:
        return request.headers["x-pass"] == request.secrets["secret"]

    def parse(self, request: Request) -> Event:
        return Event("door", [request.url, request.headers, request.query])


REGISTRY.pop()


def test_a_request_is_parsed_in_a_test_as_it_is_kept() -> None:
    recorded = b"POST /hooks/x?code=let-me-in&pin=7&n=1 HTTP/1.1\nX-Pass: let-me-in\nX-Pin: 7\nX-A: 1\n\n"
    hidden = "[redacted]"
    got = testing.receive(Door, recorded, secrets={"secret": "let-me-in"})
    (event,) = got.events
    assert event.data[1:] == [{"x-pass": hidden, "x-pin": hidden, "x-a": "1"}, {"code": hidden, "pin": hidden, "n": "1"}]
    assert event.data[0].endswith("/hooks/x")
    refused = testing.receive(Door, recorded, secrets={"secret": "another"})
    assert (refused.status, refused.reason) == (401, "the adapter's verify answered False")


def test_a_scheme_without_a_secret_says_so() -> None:
    class Signed(Plain):
        pass

    adapter(name="signed", scheme=SIGNED)(Signed)
    REGISTRY.pop()
    recorded = b"POST / HTTP/1.1\nX-Sign: 00\n\n"
    reason = testing.receive(Signed, recorded).reason
    assert reason == "no secret was given: this scheme is verified by secret or previous_secret"
    assert testing.receive(Signed, recorded, secrets={"secret": "s"}).reason == "the x-sign header does not match"


SIGNED = Scheme(signature=Place(header="x-sign"))


def registering(**more: Any) -> Registering:
    given = {"api": "https://api.acme.example", "collection": ("hooks",), "created": {"url": Given.CALLBACK}, "callback": "url"}
    return Registering(**(given | more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"api": "ftp://acme.example"}, "api is the https address"),
        ({"api": "https://acme.example/?key=1"}, "api is the https address"),
        ({"collection": ("a/b",)}, "'a/b' is no part of a path"),
        ({"collection": ("..",)}, "'..' is no part of a path"),
        ({"collection": ()}, "1 to 20 parts"),
        ({"collection": (Setting("shop"),)}, "'shop' is nowhere declared"),
        ({"collection": (Given.SECRET,)}, "a text or a Setting"),
        ({"created": {"key": Given.SECRET}}, "no Given.CALLBACK"),
        ({"created": {"url": Given.CALLBACK, "x": {"$given": "token"}}}, "'token' is nowhere declared"),
        ({"created": {"url": Given.CALLBACK, "x": {"$given": "secret", "y": 1}}}, "has that alone"),
        ({"required": ("shop",)}, "requires 'shop'"),
        ({"settings": {"api_url": {}}}, "cannot be the name of a setting"),
        ({"settings": {"shop": {"type": "nothing"}}}, "nothing"),
        ({"headers": {"Authorization": "Basic x"}}, "no header that an adapter sends"),
        ({"headers": {"X-A": "a\r\nB: c"}}, "no header that an adapter sends"),
        ({"expires": "until"}, "has a lifetime"),
        ({"renew": "DELETE"}, "DELETE"),
        ({"created": {"url": Given.CALLBACK, "key": Given.SECRET}, "secret": "key"}, "not by both"),
    ],
)
def test_a_registering_that_can_never_work_is_a_problem_at_its_line(more: dict[str, Any], words: str) -> None:
    assert isinstance(judged(Plain, scheme=SIGNED, registering=registering()), DeclaredAdapter)
    (problem,) = description([], [], [told(Plain, scheme=SIGNED, registering=registering(**more))]).problems
    assert words in problem.message


def test_a_registering_has_a_secret_and_its_setting_to_itself() -> None:
    none = Scheme(algorithm="none")
    assert "sources have a secret" in str(judged(Plain, scheme=none, registering=registering()))
    assert "registration is a setting already" in str(
        judged(Plain, scheme=SIGNED, settings={"registration": {}}, registering=registering())
    )
    assert isinstance(judged(Plain, scheme=SIGNED, settings={"registration": {}}), DeclaredAdapter)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"scheme": Scheme(signature=Place(header="X-Sign"))}, "lower case"),
        ({"scheme": Scheme()}, "a scheme has a signature, or the algorithm none"),
        ({"scheme": Scheme(signature=Place(header="x-sign"), template="{id}")}, "'id'"),
        ({"scheme": Scheme(algorithm="md5", signature=Place(header="x-sign"))}, "md5"),  # type: ignore[arg-type]
        ({"scheme": SIGNED, "name": "hmac"}, "is the name of an adapter of Millrace"),
        ({"scheme": SIGNED, "secrets": ["token"]}, "none of which is a secret or a setting"),
        ({"scheme": SIGNED, "settings": {"rate": {"type": "integer"}}}, "rate is a setting already"),
        ({"scheme": SIGNED, "settings": {"x": {"type": "nothing"}}}, "nothing"),
        ({"scheme": SIGNED, "settings": {"Big-Name": {}}}, "settings"),
        ({"scheme": SIGNED, "required": ["other"]}, "requires other"),
        ({"scheme": SIGNED, "link": "javascript:alert(1)"}, "link"),
    ],
)
def test_a_declaration_that_can_never_work_is_a_problem_at_its_line(declared: dict[str, Any], words: str) -> None:
    found = description([], [], [told(Plain, **declared)])
    (problem,) = found.problems
    assert (problem.path, problem.line) == ("adapters/one.py", 3)
    assert words in problem.message


def test_a_declaration_that_has_come_past_the_sdk_has_nothing_fetched_and_verifies_something() -> None:
    outside = {"url": {"json": "u"}, "hosts": ["internal.example"]}
    place = {"header": "x-sign"}
    for verifies, words in (
        ({"schemes": [{"algorithm": "ed25519", "signature": place, "certificate": outside}]}, "fetched"),
        ({"schemes": [{"signature": place}], "handshakes": [{"signed": True, "visit": outside}]}, "fetched"),
        ({"schemes": [{"signature": place}], "handshakes": [{"headers": {"Set-Cookie": "a=b"}}]}, "begin with X-"),
        ({"schemes": [{"signature": place}], "handshakes": [{"headers": {"X-Content-Type-Options": "x"}}]}, "begin with X-"),
        ({"schemes": [{"signature": place}], "handshakes": [{"headers": {"X-A": "a\r\nB: c"}}]}, "what no header may"),
        ({"schemes": [{"signature": place}], "acknowledgement": {"text": "<script>", "content_type": "text/html"}}, "text/html"),
        ({"tokens": [{"token": place, "algorithms": ["RS256"], "key_set": "https://x"}]}, "has an audience or claims"),
        ({}, "verifies nothing"),
    ):
        one = told(Plain, scheme=SIGNED)
        one["declaration"]["verification"] = verifies
        (problem,) = description([], [], [one]).problems
        assert words in problem.message


def test_a_workspace_has_a_hundred_small_adapters_at_most() -> None:
    many = [told(Plain, scheme=SIGNED, name=f"a{number}") for number in range(101)]
    found = description([], [], many)
    assert (len(found.adapters), [one.message for one in found.problems]) == (100, ["a workspace has 100 adapters at most"])
    large = told(Plain, scheme=SIGNED, event_types=["t" * 190] * 200)
    assert "bytes as JSON" in description([], [], [large]).problems[0].message


def test_a_class_that_can_be_no_adapter_is_refused_at_once() -> None:
    class Empty:
        pass

    class Awaited(Plain):
        async def verify(self, request: Request) -> bool:
            return True

    class Both(Plain):
        def verify(self, request: Request) -> bool:
            return True

    with pytest.raises(TypeError, match="no method parse"):
        adapter(scheme=SIGNED)(Empty)
    with pytest.raises(TypeError, match="plain functions"):
        adapter()(Awaited)
    with pytest.raises(ValueError, match="both a scheme and a method verify"):
        adapter(scheme=SIGNED)(Both)
    with pytest.raises(ValueError, match="verifies nothing"):
        adapter()(Plain)
    with pytest.raises(TypeError, match="only a class"):
        adapter(scheme=SIGNED)(test_a_class_that_can_be_no_adapter_is_refused_at_once)  # type: ignore[type-var]


class Coded(Plain):
    def __init__(self) -> None:
        self.answer: Any = True

    def handshake(self, request: Request) -> Response | None:
        return Response(request.query["c"], content_type="text/html") if "c" in request.query else None

    def verify(self, request: Request) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        found: bool = self.answer
        return found


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (False, "the adapter's verify answered False"),
        (Unverified("too old"), "too old"),
        (Unverified(), "the adapter's verify raised Unverified, without a reason"),
    ],
)
def test_a_request_that_verify_refuses_is_refused_with_its_reason(answer: Any, refused: str) -> None:
    coded = Coded()
    coded.answer = answer
    assert answered(coded, "receive", Request()) == {"refused": refused}


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_verify_that_forgets_to_return_lets_nobody_in(answer: Any) -> None:
    coded = Coded()
    coded.answer = answer
    with pytest.raises(TypeError, match="True or False"):
        answered(coded, "receive", Request())


def test_a_handshake_is_asked_first_and_alone() -> None:
    asking = Request(all_query=(("c", "x"),))
    assert answered(Coded(), "receive", asking)["reply"]["body_base64"] == "eA=="
    assert answered(Coded(), "handshake", Request()) == {}
    assert answered(Coded(), "receive", Request()) == {"genuine": True, "delivery": None}


@pytest.mark.parametrize("made", [["text"], "text", {"type": "x"}, 7, [Event("")], [Event("\0")]])
def test_parse_answers_events_and_nothing_else(made: Any) -> None:
    class Odd:
        def parse(self, request: Request) -> Any:
            return made

    with pytest.raises((TypeError, ValueError)):
        answered(Odd(), "parse", Request())


def test_all_that_an_author_needs_is_imported_from_one_place() -> None:
    names = ("Event", "Handshake", "Place", "Request", "Response", "Scheme", "Unverified", "adapter")
    assert set(names) <= set(millrace.__all__)
