"""Runs, their lines, workspace files, workflows and checkpoints of the executor service."""

from alembic import op

revision = "executor_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE checkpoint (
        projection text PRIMARY KEY, stream text NOT NULL, incarnation text NOT NULL, last_seq bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now())
    """,
    # `state` is the fold of the run's messages (run_state.RunState) as JSON; the columns beside it are what lists ask for.
    """
    CREATE TABLE run (
        id text PRIMARY KEY, org text NOT NULL, workflow text NOT NULL, status text NOT NULL,
        requested_at timestamptz NOT NULL, last_seq bigint NOT NULL, state json NOT NULL)
    """,
    "CREATE INDEX run_list ON run (org, requested_at DESC, id DESC)",
    "CREATE INDEX run_status ON run (org, status, requested_at DESC, id DESC)",
    "CREATE INDEX run_workflow ON run (org, workflow, requested_at DESC, id DESC)",
    """
    CREATE TABLE line (
        run text NOT NULL, n bigint NOT NULL, attempt integer NOT NULL, line json NOT NULL, PRIMARY KEY (run, n))
    """,
    """
    CREATE TABLE file (
        org text NOT NULL, path text COLLATE "C" NOT NULL, sha256 text NOT NULL, size bigint NOT NULL,
        updated_at timestamptz NOT NULL, version bigint NOT NULL, PRIMARY KEY (org, path))
    """,
    """
    CREATE TABLE workflow (
        org text NOT NULL, name text COLLATE "C" NOT NULL, entry json NOT NULL, version bigint NOT NULL,
        PRIMARY KEY (org, name))
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in TABLES:
        op.execute(statement)
