"""The kinds of resources, as the platform declares them: where each is found, and the fields of its body."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A field of a body. `schema` is JSON Schema, with the platform's own marks."""

    name: str
    schema: Schema

    @property
    def option(self) -> str:
        """The option of the command line that sets it."""
        return "--" + str(self.schema.get("x-option", self.name)).replace("_", "-")

    @property
    def marks(self) -> Schema:
        """Everything that is said of it but its type, wherever in the schema."""
        return {name: value for one in (self.schema, *self.schema.get("anyOf", ())) for name, value in one.items()}

    @property
    def types(self) -> set[str]:
        """The JSON types that it takes; an empty set means any."""
        every = self.schema.get("anyOf", [self.schema])
        enums = {"string" for one in every if "enum" in one}
        return {one["type"] for one in every if "type" in one} | enums

    @property
    def is_secret(self) -> bool:
        """Whether the field is written and never shown."""
        return bool(self.marks.get("writeOnly"))

    @property
    def has_members(self) -> bool:
        """Whether its members may be given one by one."""
        return bool(self.schema.get("x-merged"))

    @property
    def has_secrets(self) -> bool:
        """Whether some of its members are secret."""
        return bool(self.schema.get("x-secret-members"))


@dataclass(frozen=True)
class Kind:
    """A kind of resource; `platform`: all of them are the platform's."""

    noun: str
    plural: str
    path: str
    platform: bool
    doc: str
    columns: tuple[str, ...]
    fields: tuple[Field, ...]

    def org(self, meant: str) -> str:
        """Return the organization of one, where `meant` is meant: of some kinds all are the platform's."""
        return "global" if self.platform else meant

    @property
    def one(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeio' else 'a'} {self.noun.replace('_', ' ')}"

    @property
    def is_placed(self) -> bool:
        """Whether the path names the organization."""
        return "{org}" in self.path

    @property
    def referring(self) -> dict[str, str]:
        """The noun of the resource that a field refers to, by the field's name."""
        found = {field.name: one for field in self.fields for one in [field.marks.get("x-refers-to")] if one is not None}
        return {name: str(noun) for name, noun in found.items()}

    @property
    def parents(self) -> list[Kind]:
        """The kinds below whose path one of this kind is found, by the same name."""
        return [one for one in kinds().values() if self.is_placed and self.path.startswith(f"/{one.plural}/")]

    def place(self, name: str, org: str) -> tuple[str, ...]:
        """Return the path below /api/v1 of the one of that name: the first part as it is, the others to be quoted."""
        first, *parts = self.path.strip("/").split("/")
        return "/" + first, *({"{name}": name, "{org}": org}.get(part, part) for part in parts)

    def collection(self, name: str) -> tuple[str, ...]:
        """Return the path of the list; of a kind whose path names the organization, of those of a name."""
        return self.place(name, "")[:-1]

    def body_of(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that a request would hold, of a resource as it is answered; secret ones are not in it."""
        return {
            field.name: shown.get(f"{field.name}_name", shown[field.name])
            for field in self.fields
            if field.name in shown and not field.is_secret
        }


@cache
def kinds() -> dict[str, Kind]:
    """Return every kind by its noun."""
    described = json.loads(files("millrace.cli").joinpath("kinds.json").read_bytes())
    return {
        one["noun"]: Kind(
            **one
            | {"columns": tuple(one["columns"]), "fields": tuple(Field(name, schema) for name, schema in one["fields"].items())}
        )
        for one in described
    }
