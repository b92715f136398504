"""One table of resources; its projection reads the catalog from its beginning."""

from alembic import op

revision = "events_0005"
down_revision = "events_0004"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE resource (
        id text PRIMARY KEY, noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, key text NOT NULL,
        spec json NOT NULL, refs jsonb NOT NULL, sealed jsonb NOT NULL, applied_as text, removed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX resource_name ON resource (noun, name, org) WHERE NOT removed",
    "CREATE INDEX resource_refs ON resource USING gin (refs)",
    "DROP TABLE source, subscription, integration, mapping",
    "DELETE FROM checkpoint WHERE projection = 'catalog'",
)


def upgrade() -> None:
    """Make the table in place of one for each kind."""
    for statement in TABLES:
        op.execute(statement)
