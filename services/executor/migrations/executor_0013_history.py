"""The history of files: versions, and the commits that made them."""

from alembic import op

revision = "executor_0013"
down_revision = "executor_0012"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE file_version (
        org text NOT NULL, path text COLLATE "C" NOT NULL, version bigint NOT NULL, id text NOT NULL, "commit" text NOT NULL,
        actor text NOT NULL, at timestamptz NOT NULL, until timestamptz, sha256 text, size bigint NOT NULL, note text,
        moved_from text, gap boolean NOT NULL DEFAULT false, PRIMARY KEY (org, path, version))
    """,
    'CREATE INDEX file_version_commit ON file_version (org, "commit", version)',
    "CREATE INDEX file_version_until ON file_version (org, until)",
    """
    CREATE TABLE file_commit (
        org text NOT NULL, id text NOT NULL, version bigint NOT NULL, at timestamptz NOT NULL, actor text NOT NULL, note text,
        changes integer NOT NULL, PRIMARY KEY (org, id))
    """,
    "CREATE INDEX file_commit_list ON file_commit (org, version DESC)",
    "CREATE TABLE file_history (org text NOT NULL, since timestamptz NOT NULL, PRIMARY KEY (org))",
)


def upgrade() -> None:
    """Make the tables; their projection reads the catalog from its beginning."""
    for statement in TABLES:
        op.execute(statement)
