"""Keys, and when each was last used."""

from alembic import op

revision = "gateway_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE checkpoint (
        projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now())
    """,
    """
    CREATE TABLE resource (
        id text PRIMARY KEY, noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, key text NOT NULL,
        spec json NOT NULL, refs jsonb NOT NULL, sealed jsonb NOT NULL, applied_as text, removed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX resource_name ON resource (noun, name, org) WHERE NOT removed",
    "CREATE INDEX resource_refs ON resource USING gin (refs)",
    # No projection: what was not written when a gateway dies is lost, at most a minute of it.
    "CREATE TABLE key_use (id text PRIMARY KEY, used_at timestamptz NOT NULL)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
