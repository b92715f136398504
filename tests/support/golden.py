"""Golden documents: how each message looks on the bus, reviewed like an API."""

from __future__ import annotations

from pathlib import Path

from shared.messages import DECLARATIONS
from shared.resources import KINDS

FOLDER = Path(__file__).parents[1] / "golden"


def golden(type_: str) -> tuple[Path, bytes]:
    """Return the file of a message's golden document, and the document; b"" where there is none.

    The messages of all catalogued resources have one shape, so one file, in which noun and owner stand open.
    """
    noun, _, verb = type_.partition(".")
    kind = KINDS.get(noun)
    if kind is None or kind.in_vault:
        path = FOLDER / f"{type_.replace('*', 'any')}.json"
        return path, path.read_bytes() if path.exists() else b""
    path = FOLDER / f"resource.{verb}.json"
    return path, path.read_bytes().replace(b"<noun>", noun.encode()).replace(b"<owner>", kind.owner.encode())


DOCUMENTS = {type_: golden(type_) for type_ in sorted(DECLARATIONS)}
