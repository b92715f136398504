"""Tables that the schemas of several services have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Index, MetaData, Table, Text, false, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

Moment = DateTime(timezone=True)


def required(kind: type[TypeEngine[Any]] | TypeEngine[Any], *names: str) -> list[Column[Any]]:
    """Return columns of one type that are never null."""
    return [Column(name, kind, nullable=False) for name in names]


def checkpoint_in(metadata: MetaData) -> Table:
    """Return the table of checkpoints: how far each projection of the schema has come in its stream."""
    return Table(
        "checkpoint",
        metadata,
        Column("projection", Text, primary_key=True),
        *required(Text, "stream", "incarnation"),
        Column("last_seq", BigInteger, nullable=False),
        Column("updated_at", Moment, nullable=False, server_default=func.now()),
    )


def resource_in(metadata: MetaData) -> Table:
    """Return the table of resources, which the schema of every owner of resources has."""
    # `spec` is JSON as text: a value is answered as it was given, its members in order. Names are in the order of their bytes.
    # A removed resource stays, without its secrets: its id stays known, and messages from before its removal are read.
    resource = Table(
        "resource",
        metadata,
        Column("id", Text, primary_key=True),
        Column("noun", Text, nullable=False),
        *required(Text(collation="C"), "org", "name"),
        Column("key", Text, nullable=False),
        Column("spec", JSON, nullable=False),
        *required(JSONB, "refs", "sealed"),
        Column("applied_as", Text),
        Column("removed", Boolean, nullable=False, server_default=false()),
        *required(Moment, "created_at", "updated_at"),
        Column("version", BigInteger, nullable=False),
    )
    of = resource.c
    Index("resource_name", of.noun, of.name, of.org, unique=True, postgresql_where=~of.removed)
    Index("resource_refs", of.refs, postgresql_using="gin")
    return resource
