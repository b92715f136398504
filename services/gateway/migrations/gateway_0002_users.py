"""Sessions of users, what they sign in with, and how they are invited."""

from alembic import op

revision = "gateway_0002"
down_revision = "gateway_0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE session (
        digest bytea PRIMARY KEY, user_id text NOT NULL, generation bigint NOT NULL, method text NOT NULL,
        created_at timestamptz NOT NULL, seen_at timestamptz NOT NULL, ends_at timestamptz NOT NULL)
    """,
    "CREATE INDEX ix_session_user_id ON session (user_id)",
    """
    CREATE TABLE credential (
        id text PRIMARY KEY, user_id text NOT NULL, kind text NOT NULL, name text NOT NULL, secret text NOT NULL,
        counter bigint NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now(), used_at timestamptz)
    """,
    "CREATE INDEX credential_user ON credential (user_id, kind)",
    "CREATE UNIQUE INDEX credential_one ON credential (user_id, kind) WHERE kind IN ('password', 'totp')",
    """
    CREATE TABLE failure (
        digest bytea PRIMARY KEY, count integer NOT NULL, last_at timestamptz NOT NULL, until timestamptz NOT NULL)
    """,
    """
    CREATE TABLE invitation (
        digest bytea PRIMARY KEY, id text NOT NULL, org text NOT NULL, role text NOT NULL, actor text NOT NULL, user_id text,
        name text, display_name text NOT NULL, email text NOT NULL, created_at timestamptz NOT NULL, ends_at timestamptz NOT NULL)
    """,
    "CREATE INDEX invitation_org ON invitation (org, id)",
    "CREATE TABLE challenge (value bytea PRIMARY KEY, user_id text, ends_at timestamptz NOT NULL)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
