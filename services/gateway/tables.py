"""The tables of the gateway, as its migrations make them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables import Moment, checkpoint_in, required, resource_in

metadata = MetaData()
checkpoint = checkpoint_in(metadata)
resource = resource_in(metadata)

# None of those below is a projection but `removal`: they are in no message, and with the database they are gone.

# When each key was last used, to a minute or so.
key_use = Table("key_use", metadata, Column("id", Text, primary_key=True), Column("used_at", Moment, nullable=False))

# Browsers that are signed in, by the digest of their cookie; `generation` is that of the user's entry.
session = Table(
    "session",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("method", Text, nullable=False),
    *required(Moment, "created_at", "seen_at", "ends_at"),
)

# What a user can sign in with. `secret`: of a password its argon2id, of TOTP the sealed secret, of a recovery code its digest, of a
# passkey its public key. `counter`: the last time step of TOTP that has counted, the sign counter of a passkey.
credential = Table(
    "credential",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "user_id", "kind", "name", "secret"),
    Column("counter", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", Moment, nullable=False, server_default=text("now()")),
    Column("used_at", Moment),
    Index("credential_user", "user_id", "kind"),
    Index("credential_one", "user_id", "kind", unique=True, postgresql_where=text("kind IN ('password', 'totp')")),
)

# Sign-ins that failed, by the digest of a login or of an address: the next one is looked at from `until` on.
failure = Table(
    "failure",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("count", Integer, nullable=False),
    *required(Moment, "last_at", "until"),
)

# Links that are of use once: to become a user with a role in an organization, or for a user to set a password or a passkey.
invitation = Table(
    "invitation",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    *required(Text, "id", "org", "role", "actor"),
    Column("user_id", Text),
    Column("name", Text),
    *required(Text, "display_name", "email"),
    *required(Moment, "created_at", "ends_at"),
    Index("invitation_org", "org", "id"),
)

# What a passkey is to sign, once; `user_id`: for whom a new one is made.
challenge = Table(
    "challenge",
    metadata,
    Column("value", LargeBinary, primary_key=True),
    Column("user_id", Text),
    Column("ends_at", Moment, nullable=False),
)

# Sign-ins of the command, by digests of their codes. `pace`: seconds between two polls.
login = Table(
    "login",
    metadata,
    Column("id", Text, primary_key=True),
    *(Column(name, LargeBinary, nullable=False, unique=True) for name in ("device", "code")),
    Column("host", Text, nullable=False),
    *(Column(name, Text) for name in ("address", "neighbourhood", "org", "role")),
    Column("lifetime", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("pace", BigInteger, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("asked_at", Moment, nullable=False, server_default=func.now()),
    Column("ends_at", Moment, nullable=False, index=True),
    Column("polled_at", Moment),
    Column("actor", Text),
    Column("decided_at", Moment),
    Column("user_id", Text),
)

# The last removal of each organization. What is left at each owner, and why the last look failed, is no projection.
removal = Table(
    "removal",
    metadata,
    Column("organization", Text, primary_key=True),
    *required(Text, "id", "actor"),
    Column("began_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("until", Moment),
)
removal_part = Table(
    "removal_part",
    metadata,
    Column("organization", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    *required(Text, "id", "step"),
    Column("found", JSONB, nullable=False),
    Column("error", Text),
    Column("at", Moment, nullable=False),
)
