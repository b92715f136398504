"""One table of what is sealed, one of resources; the projection of the second reads the catalog from its beginning."""

from alembic import op

revision = "oauth_0003"
down_revision = "oauth_0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Not a projection: what is sealed is nowhere else. `announced` says that the row's state is on the bus as well.
    """
    CREATE TABLE vault (
        id text PRIMARY KEY, noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, spec json NOT NULL,
        sealed text NOT NULL, applied_as text, version bigint NOT NULL, revoking boolean NOT NULL, announced boolean NOT NULL,
        actor text NOT NULL, first_command text NOT NULL, last_command text NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, UNIQUE (noun, org, name))
    """,
    "CREATE INDEX vault_unannounced ON vault (updated_at) WHERE NOT announced",
    """
    INSERT INTO vault
        SELECT id, 'connection', org, name, json_build_object('grant', grant_kind), sealed, NULL, version, revoking, announced,
            actor, first_command, last_command, created_at, updated_at FROM connection
    """,
    """
    INSERT INTO vault
        SELECT id, 'secret', org, name, '{}', sealed, NULL, version, revoking, announced,
            actor, first_command, last_command, created_at, updated_at FROM secret
    """,
    """
    CREATE TABLE resource (
        id text PRIMARY KEY, noun text NOT NULL, org text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, key text NOT NULL,
        spec json NOT NULL, refs jsonb NOT NULL, sealed jsonb NOT NULL, applied_as text, removed boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, version bigint NOT NULL)
    """,
    "CREATE UNIQUE INDEX resource_name ON resource (noun, name, org) WHERE NOT removed",
    "CREATE INDEX resource_refs ON resource USING gin (refs)",
    "DROP TABLE connection, secret, variable",
    "DELETE FROM checkpoint WHERE projection = 'catalog'",
)


def upgrade() -> None:
    """Move what is sealed, and make room for variables as resources."""
    for statement in STATEMENTS:
        op.execute(statement)
