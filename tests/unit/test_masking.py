"""A credential is masked however it was written and wherever the text was cut, and nothing else is."""

import base64
import html
import itertools
import json
import re
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.sandbox import masking
from services.executor.sandbox.masking import LONGEST, MASK, SHORTEST, MaskedStream, Masker

TOKEN = "gho_16C7e42F292c6912E7/+=?"
SECRETS = st.text(st.characters(exclude_categories=("Cs",)), min_size=SHORTEST, max_size=40).filter(lambda text: "*" not in text)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
SMALL = st.text("ab\n", max_size=60)


def masker(*secrets: str) -> Masker:
    made = Masker()
    made.learn(*secrets)
    return made


def streamed(made: Masker, pieces: list[str]) -> str:
    stream = MaskedStream(made)
    return "".join([stream.feed(piece) for piece in pieces] + [stream.end()])


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


WRITTEN = {
    "as it is": lambda secret: secret,
    "JSON": lambda secret: json.dumps({"a": secret}),
    "JSON in its own script": lambda secret: json.dumps([secret], ensure_ascii=False),
    "JSON with slashes escaped": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "repr": repr,
    "hexadecimal": lambda secret: secret.encode().hex(),
    "HEXADECIMAL": lambda secret: secret.encode().hex().upper(),
    "percent": lambda secret: quote(secret, safe=""),
    "percent, a path": quote,
    "percent, in small letters": lambda secret: re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
    "percent, a form": quote_plus,
    "percent, in latin-1": lambda secret: quote(secret, safe="", encoding="latin-1", errors="replace"),
    "ascii": ascii,
    "repr of bytes": lambda secret: repr(secret.encode()),
    "repr beside a quote": lambda secret: repr(f'"{secret}'),
    "repr beside an apostrophe": lambda secret: repr(f"'{secret}"),
    "JSON in JSON": lambda secret: json.dumps({"a": json.dumps({"b": secret})}),
    "JSON in JSON in its own script": lambda secret: json.dumps(json.dumps([secret], ensure_ascii=False), ensure_ascii=False),
    "HTML": html.escape,
    "HTML with its quotes": lambda secret: html.escape(secret, quote=False),
    "HTML as templates write it": lambda secret: html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "XML in ASCII": lambda secret: html.escape(secret, quote=False).encode("ascii", "xmlcharrefreplace").decode(),
    "in small letters": str.lower,
    "in capitals": str.upper,
    "percent, every byte": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_token_is_masked_in_every_writing(written: object) -> None:
    text = written(TOKEN)  # type: ignore[operator]
    masked = masker(TOKEN).mask(f"before {text} after")
    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert not any(TOKEN[at : at + 6] in masked for at in range(len(TOKEN) - 5))


@given(SECRETS, TEXTS, TEXTS)
def test_a_secret_is_never_in_what_comes_out(secret: str, before: str, after: str) -> None:
    assert secret not in masker(secret).mask(before + secret + after)


@given(SECRETS, st.sampled_from(sorted(set(WRITTEN) - {"percent, in small letters"})))
def test_any_secret_is_masked_in_every_writing(secret: str, name: str) -> None:
    assert MASK in masker(secret).mask(WRITTEN[name](secret))


@given(SECRETS, st.binary(max_size=20), st.binary(max_size=20), st.booleans())
def test_base64_hides_no_secret_at_any_alignment(secret: str, before: bytes, after: bytes, url_safe: bool) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    for padded in (True, False):
        text = encode(before + secret.encode() + after).decode()
        text = text if padded else text.rstrip("=")
        masked = masker(secret).mask(text)
        left, found, right = masked.partition(MASK)
        assert found
        # What stays are whole groups of the neighbours: not one bit of the secret.
        assert len(left) <= len(before) * 8 // 6
        assert len(right.rstrip("=")) <= -(-len(after) * 8 // 6)


UNITS = st.text("ab", min_size=1, max_size=5)
REPEATED = st.builds(lambda unit, times, more: (unit * times + more)[:40], UNITS, st.integers(3, 20), st.text("ab", max_size=9))
PERIODIC = REPEATED.filter(lambda secret: len(secret) >= SHORTEST)


@given(PERIODIC, st.text("ab", max_size=60), st.integers(0, 5))
def test_places_that_overlap_are_all_found(secret: str, rest: str, times: int) -> None:
    text = rest + secret * times + rest + secret[1:] + secret + rest
    made = masker(secret)
    covered = {at for start, end in made.spans(text) for at in range(start, end)}
    # One by one, as slowly as that is.
    found = [at for at in range(len(text)) if text.startswith(secret, at)]
    expected = {at + offset for at in found for offset in range(len(secret))}
    assert {at for at in covered if any(start <= at < start + len(secret) for start in found)} == expected
    assert covered >= expected
    for start, end in made.spans(text):
        # Nothing but places of it, each of which overlaps the one before.
        assert text[start:end].startswith(tuple(form.core for form in made._forms)) or start == 0


@given(PERIODIC | SECRETS, TEXTS | st.text("ab", max_size=60), TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_no_cut_lets_a_long_secret_through(secret: str, before: str, after: str, places: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_SHORT", 1)  # as if each form were one of the long
        made = masker(secret)
        assert made._long
        assert secret not in streamed(made, cut(before + secret + after, places))


ALIKE = st.lists(st.text("ab\n", min_size=SHORTEST, max_size=12) | PERIODIC, max_size=3)


@given(ALIKE, SMALL | PERIODIC, st.lists(st.integers(0, 60), max_size=6))
def test_a_long_secret_is_masked_in_a_stream_as_if_it_came_whole(secrets: list[str], text: str, places: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_SHORT", 1)
        made = masker(*secrets)
        assert streamed(made, [*cut(text, places), "!"]) == made.mask(text + "!")


@pytest.mark.parametrize("secret", ["a" * 65_536, "ab" * 32_768, "a" * 32_767 + "b" + "a" * 32_768, "ab\n" * 20_000])
def test_a_large_secret_that_repeats_itself_is_masked(secret: str) -> None:
    made = masker(secret)
    text = f"before {secret}{secret} after"
    if len(secret) > LONGEST:
        assert made.mask(text) is text  # but for its lines, of which there are too many
        return
    masked = made.mask(text)
    assert masked == streamed(made, cut(text, [70_000, 100, 131_000]))
    assert masked.replace(MASK, "") == "before  after"


@given(SECRETS.filter(str.isascii), st.data())
def test_the_name_of_a_host_is_masked_whatever_its_case(secret: str, data: st.DataObject) -> None:
    host = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in f"{secret}.invalid")
    masked = masker(secret).mask_any_case(host)
    assert secret.lower() not in masked.lower()
    assert masked.startswith(MASK)
    assert masker(secret).mask_any_case("example.com") == "example.com"


def test_a_basic_authorization_is_masked() -> None:
    header = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    masked = masker(TOKEN).mask(f"Authorization: Basic {header}")
    assert masked.startswith("Authorization: Basic eC1hY2Nlc3MtdG9rZW")
    assert MASK in masked


@given(TEXTS)
def test_text_without_a_secret_stays_the_same_object(text: str) -> None:
    made = masker("nobody-writes-this")
    assert made.mask(text) is text


@given(st.lists(st.text("ab\n", min_size=SHORTEST, max_size=12), max_size=3), SMALL, st.lists(st.integers(0, 60), max_size=6))
def test_a_stream_is_masked_as_if_it_came_whole(secrets: list[str], text: str, places: list[int]) -> None:
    made = masker(*secrets)
    whole = made.mask(text + "!")
    assert streamed(made, [*cut(text, places), "!"]) == whole


@given(SECRETS, TEXTS, TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_no_cut_lets_a_secret_through(secret: str, before: str, after: str, places: list[int]) -> None:
    assert secret not in streamed(masker(secret), cut(before + secret + after, places))


def test_a_stream_holds_back_only_what_may_be_a_secret() -> None:
    stream = MaskedStream(masker("correct-horse"))
    assert stream.feed("a whole line\n") == "a whole line\n"
    assert stream.feed("the word is corr") == "the word is "
    assert stream.feed("ect, you see") == "correct, you see"
    assert stream.feed("correct-hors") == ""
    assert stream.feed("e") == MASK
    assert stream.end() == ""


def test_a_secret_that_is_cut_off_is_not_given_away() -> None:
    stream = MaskedStream(masker("correct-horse"))
    assert stream.feed("it is correct-ho") == "it is "
    assert stream.end() == MASK


def test_a_few_letters_at_the_end_are_not_a_secret() -> None:
    stream = MaskedStream(masker("correct-horse"))
    assert stream.feed("it is cor") == "it is "
    assert stream.end() == "cor"


def test_every_line_of_a_key_is_masked() -> None:
    lines = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkqhkiG9w0B", "AQEFAASCBKcwggSjAgEAAoIB", "-----END KEY-----"]
    made = masker("\n".join(lines))
    assert made.mask("\n".join(lines)) == MASK
    assert made.mask(f"second: {lines[2]}.") == f"second: {MASK}."
    assert streamed(made, [line + "\n" for line in lines]) == MASK + "\n"


@pytest.mark.parametrize("short", ["", "a", "secret", "1234567"])
def test_what_is_too_short_to_be_told_apart_is_left_alone(short: str) -> None:
    made = masker(short)
    assert not made
    assert made.mask(f"the {short} word") == f"the {short} word"


def test_overlapping_secrets_leave_nothing_between() -> None:
    made = masker("abcdefgh-1", "gh-1-and-more", "abcdefgh")
    assert made.mask("<abcdefgh-1-and-more>") == f"<{MASK}>"


def test_what_nests_is_masked_whole() -> None:
    made = masker(TOKEN, "12345678")
    value = {"a": [{"b": f"Bearer {TOKEN}"}, 3, None, True, 1.5], TOKEN: 12345678, "n": 1234567}
    assert made.masked(value) == {"a": [{"b": f"Bearer {MASK}"}, 3, None, True, 1.5], MASK: MASK, "n": 1234567}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_a_document_without_a_secret_stays_as_it_is(value: object) -> None:
    document = msgspec.Raw(json.dumps(value).encode())
    assert masker("nobody-writes-this").masked_json(document) is document


@given(JSON, SECRETS, st.booleans())
def test_no_escape_of_json_hides_a_secret(value: object, secret: str, ascii_only: bool) -> None:
    document = msgspec.Raw(json.dumps({"v": value, "s": ["a" + secret], secret: 1}, ensure_ascii=ascii_only).encode())
    masked = json.loads(bytes(masker(secret).masked_json(document)))
    assert masked["s"][0].endswith(MASK) or MASK in masked["s"][0]
    assert not any(secret in key for key in masked)
    assert masked[MASK] == 1


def test_a_secret_written_as_unicode_escapes_is_masked_in_a_document() -> None:
    text = "".join(f"\\u{ord(one):04x}" for one in TOKEN)
    assert bytes(masker(TOKEN).masked_json(msgspec.Raw(f'"{text}"'.encode()))) == b'"***"'


def test_learning_again_costs_nothing_more() -> None:
    made = masker(TOKEN)
    forms = len(made._forms)
    made.learn(TOKEN, TOKEN)
    assert len(made._forms) == forms < 24
