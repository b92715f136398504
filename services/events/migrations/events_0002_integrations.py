"""Integrations and their mappings; deliveries that no webhook began."""

from alembic import op

revision = "events_0002"
down_revision = "events_0001"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE integration (
        id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, name text NOT NULL, description text NOT NULL,
        config_schema jsonb NOT NULL, provider text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
        version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX integration_name ON integration (name, org)",
    """
    CREATE TABLE mapping (
        id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, integration text NOT NULL, config jsonb NOT NULL,
        entity_id text, connection text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
        version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX mapping_org ON mapping (integration, org)",
    "ALTER TABLE source ADD COLUMN integration text",
    # The position in EVENTS of the message that began the delivery, as `sequence` is the one in WEBHOOKS.
    "ALTER TABLE delivery ADD COLUMN emitted bigint",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in TABLES:
        op.execute(statement)
