"""Sources, subscriptions, deliveries, dead letters and checkpoints of the events service."""

from alembic import op

revision = "events_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """
        CREATE TABLE checkpoint (
            projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
            updated_at timestamptz NOT NULL DEFAULT now())
        """
    )
    op.execute(
        """
        CREATE TABLE source (
            id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, name text NOT NULL, adapter text NOT NULL,
            settings jsonb NOT NULL, sealed jsonb NOT NULL, enabled boolean NOT NULL, removed boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
        """
    )
    op.execute("CREATE UNIQUE INDEX source_name ON source (org, name) WHERE NOT removed")
    op.execute(
        """
        CREATE TABLE subscription (
            id text PRIMARY KEY, key text NOT NULL, org text NOT NULL, name text NOT NULL, source text NOT NULL,
            source_name text NOT NULL, event text NOT NULL, workflow text NOT NULL, filter text, input jsonb,
            enabled boolean NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
        """
    )
    op.execute("CREATE UNIQUE INDEX subscription_name ON subscription (org, name)")
    op.execute(
        """
        CREATE TABLE delivery (
            id text PRIMARY KEY, org text NOT NULL, source text NOT NULL, sequence bigint NOT NULL, type text,
            status text NOT NULL, reason text, received_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
            correlation_id text NOT NULL)
        """
    )
    op.execute("CREATE INDEX delivery_list ON delivery (org, received_at DESC, id DESC)")
    op.execute(
        """
        CREATE TABLE delivery_run (
            run text PRIMARY KEY, delivery text NOT NULL, workflow text NOT NULL, status text NOT NULL,
            requested_at timestamptz NOT NULL)
        """
    )
    op.execute("CREATE INDEX delivery_run_delivery ON delivery_run (delivery, requested_at, run)")
