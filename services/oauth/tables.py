"""The tables of the oauth service, as its migrations make them: the one place that names their columns."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, MetaData, Table, Text, UniqueConstraint

from shared.tables import Moment, checkpoint_in, required, resource_in

metadata = MetaData()
checkpoint = checkpoint_in(metadata)
resource = resource_in(metadata)

# No projection: sealed values are nowhere else. Names are in the order of their bytes.
vault = Table(
    "vault",
    metadata,
    Column("id", Text, primary_key=True),
    Column("noun", Text, nullable=False),
    *required(Text(collation="C"), "org", "name"),
    Column("spec", JSON, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("applied_as", Text),
    Column("version", BigInteger, nullable=False),
    *required(Boolean, "revoking", "announced"),
    *required(Text, "actor", "first_command", "last_command"),
    *required(Moment, "created_at", "updated_at"),
    UniqueConstraint("noun", "org", "name"),
)
# The last version of what was removed, so that no tag of it fits another one of its name.
past_version = Table(
    "past_version",
    metadata,
    Column("noun", Text, primary_key=True),
    Column("org", Text(collation="C"), primary_key=True),
    Column("name", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, nullable=False),
)
# Commands whose row is gone: repeated, they must neither fail nor make it again.
done_command = Table(
    "done_command",
    metadata,
    Column("id", Text, primary_key=True),
    Column("removed", Boolean, nullable=False),
    Column("at", Moment, nullable=False),
)
Index("vault_unannounced", vault.c.updated_at, postgresql_where=~vault.c.announced)
Index("done_command_at", done_command.c.at)
