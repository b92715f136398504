"""The providers that are known: one value each, from the documents of the provider that it links to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.oauth.addresses import parameters_of
from shared.resources.connection import Grant
from shared.resources.provider import ADDRESSES, FURTHER, Provider


class KnownProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's name and title, its own documents, the grants that they describe, and its endpoints and habits."""

    name: str
    title: str
    documents: str
    grants: tuple[Grant, ...]
    note: str | None
    provider: Provider

    @property
    def parameters(self) -> list[str]:
        """Return the parameters that a connection needs for this provider."""
        return needed(self.provider)


def needed(provider: Provider) -> list[str]:
    """Return the names of the `{…}` of a provider's addresses and further parameters."""
    texts = [getattr(provider, field) or "" for field in ADDRESSES]
    texts += [text for field in FURTHER for text in getattr(provider, field).values()]
    return sorted({name for text in texts for name in parameters_of(text)})


def _known(name: str, entry: dict[str, Any]) -> KnownProvider:
    about = {field: entry.pop(field, None) for field in ("title", "documents", "grants", "note")}
    return msgspec.convert({"name": name, "provider": entry} | about, KnownProvider)


_ENTRIES = msgspec.toml.decode(Path(__file__).with_name("catalogue.toml").read_bytes(), type=dict[str, dict[str, Any]])
KNOWN: Mapping[str, KnownProvider] = {name: _known(name, entry) for name, entry in _ENTRIES.items()}
