"""Tables that the schemas of several services have."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Index, MetaData, Table, Text, false, func
from sqlalchemy.dialects.postgresql import JSONB

Moment = DateTime(timezone=True)


def checkpoint_in(metadata: MetaData) -> Table:
    """Return the table of checkpoints: how far each projection of the schema has come in its stream."""
    return Table(
        "checkpoint",
        metadata,
        Column("projection", Text, primary_key=True),
        Column("stream", Text, nullable=False),
        Column("incarnation", Text, nullable=False),
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
        Column("org", Text(collation="C"), nullable=False),
        Column("name", Text(collation="C"), nullable=False),
        Column("key", Text, nullable=False),
        Column("spec", JSON, nullable=False),
        Column("refs", JSONB, nullable=False),
        Column("sealed", JSONB, nullable=False),
        Column("applied_as", Text),
        Column("removed", Boolean, nullable=False, server_default=false()),
        Column("created_at", Moment, nullable=False),
        Column("updated_at", Moment, nullable=False),
        Column("version", BigInteger, nullable=False),
    )
    of = resource.c
    Index("resource_name", of.noun, of.name, of.org, unique=True, postgresql_where=~of.removed)
    Index("resource_refs", of.refs, postgresql_using="gin")
    return resource
