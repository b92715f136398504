"""Sources, subscriptions, deliveries and checkpoints of the events service."""

from alembic import op

revision = "events_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE checkpoint (
        projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now())
    """,
    """
    CREATE TABLE source (
        id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, name text NOT NULL, adapter text NOT NULL,
        settings jsonb NOT NULL, sealed jsonb NOT NULL, enabled boolean NOT NULL, removed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX source_name ON source (org, name) WHERE NOT removed",
    """
    CREATE TABLE subscription (
        id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, name text NOT NULL, source text NOT NULL,
        source_name text NOT NULL, event text NOT NULL, workflow text NOT NULL, filter text, input jsonb,
        enabled boolean NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX subscription_name ON subscription (org, name)",
    # Each column is written by the projection of one stream only, or gets the same value from several, so that the rows do not
    # depend on which stream is read first.
    """
    CREATE TABLE delivery (
        id text PRIMARY KEY, org text NOT NULL, source text NOT NULL, received_at timestamptz NOT NULL,
        correlation_id text NOT NULL, sequence bigint, type text, outcome text NOT NULL DEFAULT 'accepted', reason text,
        retried_by text, dead text)
    """,
    "CREATE INDEX delivery_list ON delivery (org, received_at DESC, id DESC)",
    """
    CREATE TABLE delivery_run (
        run text PRIMARY KEY, delivery text NOT NULL, workflow text NOT NULL, status text NOT NULL,
        requested_at timestamptz NOT NULL)
    """,
    "CREATE INDEX delivery_run_delivery ON delivery_run (delivery, requested_at, run)",
)


def upgrade() -> None:
    """Make the tables."""
    for statement in TABLES:
        op.execute(statement)
