"""What Microsoft Graph encrypts is read by the key that it was encrypted for, and by nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.events.adapters.graph_content import certified, content_of
from tests.support.encrypting import encrypted, pair

OURS, OTHER = ("".join(pair(name)) for name in ("ours", "other"))
CONTENT = {"id": "1565293727947", "body": {"content": "Grüße"}}


def sealed(**instead: str) -> dict[str, Any]:
    ours = certified(OURS)
    return encrypted(CONTENT, ours.certificate, ours.id, **instead)


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


def test_content_is_read_by_any_of_the_keys() -> None:
    keys = [certified(OTHER).key, certified(OURS).key]
    assert content_of(sealed(), keys) == CONTENT
    shown = sealed()
    assert shown["encryptionCertificateThumbprint"] == certified(OURS).id == shown["encryptionCertificateId"]


def tampered() -> list[tuple[Any, str]]:
    one, two = sealed(), sealed()
    return [
        (one | {"data": flipped(one["data"])}, "none of its data"),
        (one | {"dataSignature": flipped(one["dataSignature"])}, "none of its data"),
        (one | {"dataSignature": two["dataSignature"]}, "none of its data"),
        (one | {"data": two["data"], "dataSignature": two["dataSignature"]}, "none of its data"),
        (one | {"dataKey": flipped(one["dataKey"])}, "another certificate"),
        ({name: text for name, text in one.items() if name != "dataKey"}, "dataKey is no base64"),
        (one | {"data": "é"}, "data is no base64"),
        (one | {"data": 1}, "data is no base64"),
        ("text", "no object"),
    ]


@pytest.mark.parametrize(("given", "words"), tampered(), ids=range(9))
def test_what_was_changed_is_not_decrypted(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        content_of(given, [certified(OURS).key])


def test_another_key_reads_nothing() -> None:
    with pytest.raises(ValueError, match=f"another certificate than the source has: '{certified(OURS).id}'"):
        content_of(sealed(), [certified(OTHER).key])


KEY, CERTIFICATE = pair("ours")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KEY, "the certificate is missing"),
        (CERTIFICATE, "no private key"),
        (KEY + pair("other")[1], "the certificate is of another key"),
        (KEY + "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "no private key"),
        ("".join(pair("small", 1024)), "2048 to"),
    ],
)
def test_what_is_no_key_with_its_certificate_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        certified(text)
