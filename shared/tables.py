"""Tables that every service's schema has."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text, func

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
