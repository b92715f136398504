"""The last versions of what was removed: another one of the name goes on from there."""

from alembic import op

revision = "oauth_0004"
down_revision = "oauth_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        CREATE TABLE past_version (
            noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, version bigint NOT NULL,
            PRIMARY KEY (noun, org, name))
        """
    )
