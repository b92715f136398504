"""Add the steps of runs and the waits that are over."""

from alembic import op

revision = "executor_0004"
down_revision = "executor_0003"
branch_labels = None
depends_on = None

# `id` is the run's; `seq` and `place` are where the stream has it: the message, and the part of it. `bytes` is the result's size.
STATEMENTS = (
    """
    CREATE TABLE step (
        id text NOT NULL, seq bigint NOT NULL, place integer NOT NULL, kind text NOT NULL, name text NOT NULL,
        ordinal integer NOT NULL, position integer, attempt integer NOT NULL, completed_at timestamptz NOT NULL,
        timed_out boolean NOT NULL, bytes integer NOT NULL, result json NOT NULL, PRIMARY KEY (id, seq, place))
    """,
)


def upgrade() -> None:
    """Make the table."""
    for statement in STATEMENTS:
        op.execute(statement)
