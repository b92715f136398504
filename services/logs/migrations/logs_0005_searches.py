"""Saved searches, and whether they find more than they may."""

from alembic import op

revision = "logs_0005"
down_revision = "logs_0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE resource (
        id text PRIMARY KEY, noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, key text NOT NULL,
        spec json NOT NULL, refs jsonb NOT NULL, sealed jsonb NOT NULL, applied_as text, removed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX resource_name ON resource (noun, name, org) WHERE NOT removed",
    "CREATE INDEX resource_refs ON resource USING gin (refs)",
    # No projection: `raised` is the message of a crossing that is not yet on the bus.
    """
    CREATE TABLE alert (
        id text PRIMARY KEY, org text NOT NULL, version bigint NOT NULL, above boolean NOT NULL, since timestamptz NOT NULL,
        raised text)
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
