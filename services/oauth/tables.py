"""The tables of the oauth service, as its migrations make them: the one place that names their columns."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, ForeignKey, Index, MetaData, Table, Text, UniqueConstraint, text

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
    Column("destination", Text),
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
# No projection either. `fence` counts the claims on a connection; who claimed it last may write until `until`.
token = Table(
    "token",
    metadata,
    Column("connection", Text, ForeignKey("vault.id", ondelete="CASCADE"), primary_key=True),
    *required(Text, "org", "provider"),
    Column("sealed", Text),
    Column("version", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    *(Column(name, Text) for name in ("failure", "reason", "scope")),
    *(Column(name, Moment) for name in ("expires_at", "refresh_expires_at", "refresh_at", "refreshed_at", "not_before")),
    Column("reported_at", Moment),
    *required(BigInteger, "failures", "forced"),
    Column("origin", Text),
    *required(Boolean, "attempting", "doubted"),
    Column("configured", Text, nullable=False),
    Column("owner", Text),
    Column("fence", BigInteger, nullable=False),
    Column("until", Moment),
)
# A client that a provider's host wants no requests of for a while, or refuses: for all of its connections, and all replicas.
provider_gate = Table(
    "provider_gate",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("closed_until", Moment),
    Column("alarm", Text),
)
# The requests that an organization has left of those of a client that is lent to it, as of a time.
lent_client = Table(
    "lent_client",
    metadata,
    Column("client", Text, primary_key=True),
    Column("org", Text, primary_key=True),
    Column("left", Double, nullable=False),
    Column("at", Moment, nullable=False),
)
# Messages about connections, written with what they are about and published then.
outbox = Table(
    "outbox",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=True),
    *required(Text, "id", "connection", "org", "type"),
    Column("data", JSON, nullable=False),
    Column("at", Moment, nullable=False),
    Column("tries", BigInteger, nullable=False, server_default=text("0")),
    Column("not_before", Moment),
)
# What a person was asked: the hash of the `state`, which is used once; what became of it, for a while.
authorization_request = Table(
    "authorization_request",
    metadata,
    Column("state", Text, primary_key=True),
    Column("connection", Text, ForeignKey("vault.id", ondelete="CASCADE"), nullable=False),
    *required(Text, "org", "redirect"),
    Column("issuer", Text),
    Column("sealed", Text),
    Column("origin", Text),
    Column("browser", Text),
    *required(Text, "actor", "correlation"),
    Column("expires_at", Moment, nullable=False),
    Column("status", Text, nullable=False, server_default="open"),
    Column("reason", Text),
    Column("poll_at", Moment),
    Column("interval", Double),
)
Index(
    "authorization_request_poll_at",
    authorization_request.c.poll_at,
    postgresql_where=authorization_request.c.poll_at.is_not(None),
)
Index("token_refresh_at", token.c.refresh_at, postgresql_where=token.c.refresh_at.is_not(None))
Index("outbox_not_before", outbox.c.not_before, postgresql_where=outbox.c.not_before.is_not(None))
Index("vault_unannounced", vault.c.updated_at, postgresql_where=~vault.c.announced)
Index("done_command_at", done_command.c.at)
