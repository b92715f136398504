"""Keep the events of deliveries and their outcomes in rows of their own, and index when registrations are looked at.

Another outcome changes no other, and a look reads what is due.
"""

from alembic import op

revision = "events_0018"
down_revision = "events_0017"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE delivery_outcome (
        delivery text, number bigint, subscription text, name text, workflow text, status text NOT NULL, reason text, run text,
        retry_at timestamptz, tries bigint NOT NULL, PRIMARY KEY (number, delivery, subscription))
    """,
    """
    INSERT INTO delivery_outcome
    SELECT id, split_part(key, '/', 1)::bigint, substr(key, strpos(key, '/') + 1), value ->> 'name', value ->> 'workflow',
           value ->> 'status', value ->> 'reason', value ->> 'run', (value ->> 'retry_at')::timestamptz,
           coalesce((value ->> 'tries')::bigint, 0)
      FROM delivery, jsonb_each(subscriptions)
    """,
    """
    CREATE TABLE delivery_event (
        delivery text, number bigint, event text NOT NULL, type text NOT NULL, answered boolean NOT NULL,
        PRIMARY KEY (delivery, number))
    """,
    """
    INSERT INTO delivery_event
    SELECT id, key::bigint, value ->> 'event', value ->> 'type',
           EXISTS (SELECT FROM delivery_outcome AS o WHERE o.delivery = id AND o.number = key::bigint)
      FROM delivery, jsonb_each(events)
    """,
    "CREATE INDEX delivery_outcome_status ON delivery_outcome (delivery, status, number, subscription)",
    "CREATE INDEX delivery_outcome_retry ON delivery_outcome (delivery, retry_at) WHERE retry_at IS NOT NULL",
    "CREATE INDEX delivery_event_unanswered ON delivery_event (delivery) WHERE NOT answered",
    "ALTER TABLE delivery DROP COLUMN subscriptions, DROP COLUMN events",
    "ALTER TABLE registration ADD COLUMN look_at timestamptz",
    """
    UPDATE registration
       SET look_at = greatest((state ->> 'due_at')::timestamptz, (state ->> 'not_before')::timestamptz)
    """,
    "ALTER TABLE registration ALTER COLUMN look_at SET NOT NULL",
    "CREATE INDEX registration_look ON registration (look_at)",
    "CREATE INDEX registration_org ON registration (org)",
)


def upgrade() -> None:
    """Make the tables, have them take what the rows of deliveries hold, and index registrations."""
    for statement in STATEMENTS:
        op.execute(statement)
