"""Add waits of runs with their times, and concurrency slots."""

from alembic import op

revision = "executor_0003"
down_revision = "executor_0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # turn: the concurrency key; rank: that of its priority; due_at: when a waiting run is to be looked at; expires_at: only while
    # it has not begun.
    """
    ALTER TABLE run
        ADD COLUMN blocked_on text,
        ADD COLUMN turn text,
        ADD COLUMN rank smallint NOT NULL DEFAULT 1,
        ADD COLUMN due_at timestamptz,
        ADD COLUMN expires_at timestamptz
    """,
    "CREATE INDEX run_due ON run (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX run_expiring ON run (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX run_turn ON run (turn, rank, requested_at, id) WHERE status = 'waiting' AND blocked_on = 'concurrency'",
    "CREATE INDEX run_waiting ON run (id) WHERE status IN ('waiting', 'delayed', 'cancelling')",
    "CREATE TABLE turn (run text PRIMARY KEY, key text NOT NULL, since timestamptz NOT NULL DEFAULT now())",
    "CREATE INDEX turn_key ON turn (key)",
)


def upgrade() -> None:
    """Change the table and make the other one."""
    for statement in STATEMENTS:
        op.execute(statement)
