"""Runs, their lines, workspace files, workflows and checkpoints of the executor service."""

from alembic import op

revision = "executor_0001"
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
        CREATE TABLE run (
            id text PRIMARY KEY, org text NOT NULL, workflow text NOT NULL, status text NOT NULL,
            requested_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, last_seq bigint NOT NULL, state jsonb NOT NULL)
        """
    )
    op.execute("CREATE INDEX run_list ON run (org, requested_at DESC, id DESC)")
    op.execute("CREATE INDEX run_status ON run (org, status, requested_at DESC, id DESC)")
    op.execute("CREATE INDEX run_workflow ON run (org, workflow, requested_at DESC, id DESC)")
    op.execute(
        """
        CREATE TABLE line (
            run text NOT NULL, n bigint NOT NULL, attempt integer NOT NULL, chunk integer NOT NULL, line jsonb NOT NULL,
            PRIMARY KEY (run, n))
        """
    )
    op.execute("CREATE UNIQUE INDEX line_chunk ON line (run, attempt, chunk, n)")
    op.execute(
        """
        CREATE TABLE file (
            org text NOT NULL, path text NOT NULL, key text NOT NULL, sha256 text NOT NULL, size bigint NOT NULL,
            updated_at timestamptz NOT NULL, version bigint NOT NULL, PRIMARY KEY (org, path))
        """
    )
    op.execute(
        """
        CREATE TABLE workflow (
            org text NOT NULL, name text NOT NULL, key text NOT NULL, entry jsonb NOT NULL, version bigint NOT NULL,
            PRIMARY KEY (org, name))
        """
    )
