"""Tokens that providers gave, how they are refreshed, and messages that are to be published about it."""

from alembic import op

revision = "oauth_0005"
down_revision = "oauth_0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # No projection, as `vault`. `fence` counts the claims on a connection; who claimed it last may write until `until`.
    """
    CREATE TABLE token (
        connection text PRIMARY KEY REFERENCES vault (id) ON DELETE CASCADE, org text NOT NULL, provider text NOT NULL, sealed text,
        version bigint NOT NULL, status text NOT NULL, failure text, reason text, scope text, expires_at timestamptz,
        refresh_expires_at timestamptz, refresh_at timestamptz, refreshed_at timestamptz, not_before timestamptz,
        failures bigint NOT NULL, forced bigint NOT NULL, attempting boolean NOT NULL, doubted boolean NOT NULL,
        configured text NOT NULL, owner text, fence bigint NOT NULL, until timestamptz)
    """,
    "CREATE INDEX token_refresh_at ON token (refresh_at) WHERE refresh_at IS NOT NULL",
    # A provider that wants no requests for a while, or refuses its client: for all of its connections, and all replicas.
    "CREATE TABLE provider_gate (provider text PRIMARY KEY, closed_until timestamptz, alarm text)",
    """
    CREATE TABLE outbox (
        position bigserial PRIMARY KEY, id text NOT NULL, connection text NOT NULL, org text NOT NULL, type text NOT NULL,
        data json NOT NULL, at timestamptz NOT NULL)
    """,
    """
    CREATE TABLE authorization_request (
        state text PRIMARY KEY, connection text NOT NULL REFERENCES vault (id) ON DELETE CASCADE, org text NOT NULL,
        redirect text NOT NULL, issuer text, sealed text, actor text NOT NULL, correlation text NOT NULL,
        expires_at timestamptz NOT NULL)
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
