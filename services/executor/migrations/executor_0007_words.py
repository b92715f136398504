"""Concurrency slots and the resumer under the names that the field uses."""

from alembic import op

revision = "executor_0007"
down_revision = "executor_0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE turn RENAME TO concurrency_slot",
    "ALTER INDEX turn_pkey RENAME TO concurrency_slot_pkey",
    "ALTER INDEX turn_key RENAME TO concurrency_slot_key",
    "ALTER TABLE run RENAME COLUMN turn TO concurrency_key",
    "ALTER INDEX run_turn RENAME TO run_concurrency",
    "UPDATE checkpoint SET projection = 'resumer' WHERE projection = 'waits'",
    # As text: jsonb would not keep the numbers of a run's input and result as they were given.
    """
    UPDATE run SET state = regexp_replace(state::text,
        '("workflow_org":(?:"[^"]*"|null),)"turn":((null|{[^{}]*}),"work_seq":[0-9]+,"held":)', '\\1"slot":\\2')::json
    """,
)


def upgrade() -> None:
    """Rename, in the columns and in the states of runs."""
    for statement in STATEMENTS:
        op.execute(statement)
