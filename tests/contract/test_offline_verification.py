"""Schemes are verified offline as the gateway verifies them: by `millrace.testing`, over the published requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from millrace import Place, Request, Scheme, Unverified, _signatures
from shared.verification import PUBLIC_KEY, SignatureScheme
from tests.support.senders import DECLARED, NOW, VECTORS, endpoint, reason, received_of, settings_of, verification_of

SYMMETRIC = [
    vector
    for vector in VECTORS
    if (vector["id"] in DECLARED or vector["provider"] in DECLARED)
    and not any(one.algorithm in PUBLIC_KEY for one in verification_of(vector).schemes)
]


def own(declared: SignatureScheme) -> Scheme:
    """Return a scheme as an author writes it."""
    fields: dict[str, Any] = {name: getattr(declared, name) for name in declared.__struct_fields__ if name != "certificate"}

    def place(one: Any) -> Any:
        return None if one is None else Place(**msgspec.structs.asdict(one))

    fields |= {name: place(fields[name]) for name in ("signature", "timestamp", "body_digest", "delivery")}
    fields["values"] = {name: place(one) for name, one in declared.values.items()}
    fields["when"] = tuple((place(one), wanted) for one, wanted in declared.when)
    fields["delivery_with"] = tuple(map(place, declared.delivery_with))
    return Scheme(**fields)


@pytest.mark.parametrize("change", ["nothing", "body", "late"])
@pytest.mark.parametrize("vector", SYMMETRIC, ids=[vector["id"] for vector in SYMMETRIC])
def test_a_published_request_is_judged_alike(vector: dict[str, Any], change: str) -> None:
    received = received_of(vector)
    if change == "body":
        received = received.having(body=received.body + b" ")
    now = float(vector.get("now", NOW)) + (100_000 if change == "late" else 0)
    declared, settings = verification_of(vector), settings_of(vector)
    expected = reason(endpoint(declared, **settings).verifier, received, now) is None
    request = Request(
        method=received.method,
        url=received.base + received.target,
        all_headers=tuple((name.lower(), value) for name, value in received.headers.items()),
        all_query=tuple((name, value) for name, values in received.query.items() for value in values),
        body=received.body,
    )
    try:
        _signatures.verify([own(one) for one in declared.schemes], request, settings, now)
        found = True
    except Unverified:
        found = False
    assert found == expected


def test_some_of_the_published_requests_are_genuine_offline_too() -> None:
    assert sum(vector["expected_valid"] for vector in SYMMETRIC) > 10


def test_a_public_key_is_left_to_the_platform() -> None:
    scheme = Scheme(algorithm="ed25519", signature=Place(header="x-sign"), keys=("public_key",))
    with pytest.raises(NotImplementedError, match="sources test"):
        _signatures.verify([scheme], Request(), {}, NOW)
