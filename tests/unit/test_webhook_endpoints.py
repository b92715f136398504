"""Doors: what a source's settings and secrets make the gateway accept."""

from __future__ import annotations

from typing import Any

import pytest

from services.events.adapters import verification_of
from services.gateway.admission import WebhookEndpoint
from tests.support.senders import NOW, VECTORS, endpoint, reason, received_of

# What each adapter's published vectors are verified with, as a source has it, and another secret of the same form.
ADAPTERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "github": ("github", {}, "another secret"),
    "standard_webhooks": ("standard-webhooks", {}, "whsec_YW5vdGhlciBzZWNyZXQ="),
    "svix": ("standard-webhooks", {}, "whsec_YW5vdGhlciBzZWNyZXQ="),
    "razorpay": ("hmac", {"header": "X-Razorpay-Signature"}, "another secret"),
    "line": ("hmac", {"header": "X-Line-Signature", "encoding": "base64"}, "another secret"),
    "bitbucket_jira": ("hmac", {"header": "X-Hub-Signature", "prefix": "sha256="}, "another secret"),
}
VALID = [vector for vector in VECTORS if vector["provider"] in ADAPTERS and vector["expected_valid"]]
VALID = [vector for vector in VALID if "sha1" not in vector["id"]]


def door(vector: dict[str, Any], **secrets: str) -> WebhookEndpoint:
    adapter, settings, _ = ADAPTERS[vector["provider"]]
    return endpoint(verification_of(adapter, settings), **secrets)


def admits(made: WebhookEndpoint, vector: dict[str, Any]) -> bool:
    return reason(made.verifier, received_of(vector), vector.get("now", NOW)) is None


def test_every_adapter_has_a_published_vector() -> None:
    assert {ADAPTERS[vector["provider"]][0] for vector in VALID} == {"github", "standard-webhooks", "hmac"}


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_while_a_secret_is_rotated_both_open(vector: dict[str, Any]) -> None:
    published, other = vector["secret"], ADAPTERS[vector["provider"]][2]
    assert admits(door(vector, secret=published), vector)
    assert admits(door(vector, secret=other, previous_secret=published), vector)
    assert admits(door(vector, secret=published, previous_secret=other), vector)
    assert not admits(door(vector, secret=other), vector)
    assert not admits(door(vector, secret=other, previous_secret=other), vector)
