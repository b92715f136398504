"""Documents that are fetched: what one organization names costs no other one what is known for it."""

from __future__ import annotations

import pytest

from shared.egress import fetched
from shared.egress.fetched import FetchedDocuments


async def test_an_organization_with_many_addresses_has_its_own_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "MOST_KEPT", 8)

    async def get(_org: str, url: str, _timeout: float) -> bytes:
        return url.encode()

    documents = FetchedDocuments(get)
    await documents.of("other").load("https://other.example/keys", bytes.decode)
    acme = documents.of("acme")
    addresses = [f"https://acme.example/{number}" for number in range(20)]
    for address in addresses:
        await acme.load(address, bytes.decode)
    assert documents.of("other").known("https://other.example/keys") == "https://other.example/keys"
    assert [one for one in addresses if acme.known(one)] == addresses[-7:]
