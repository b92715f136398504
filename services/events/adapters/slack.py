"""Slack: the Events API, interactions and slash commands."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from services.events.adapters.webhook import FORM
from shared.verification import Acknowledgement, Handshake, Place, SignatureScheme, Verification

SCHEME = SignatureScheme(
    signature=Place(header="x-slack-signature", prefix="v0="),
    timestamp=Place(header="x-slack-request-timestamp"),
    template="v0:{timestamp}:{body}",
    delivery=Place(json="event_id"),
)
ADAPTER = Adapter(
    name="slack",
    description="Slack's Events API, interactions and slash commands, verified by X-Slack-Signature.",
    link="https://docs.slack.dev/apis/events-api/",
    secrets={"secret": text("The app's signing secret.")},
    handshake="url_verification: a signed POST, whose challenge is answered as text.",
    verification=lambda _: Verification(
        schemes=(SCHEME,),
        handshakes=(
            Handshake(
                method="POST", when=((Place(json="type"), "url_verification"),), challenge=Place(json="challenge"), signed=True
            ),
        ),
        content_types=("application/json", FORM),
        # Any text would be shown to the user of a slash command.
        acknowledgement=Acknowledgement(text=""),
    ),
    # A slash command has no type; the fields of one do not begin with `event`.
    parse=Reading(
        types=(Place(json="event.type"), Place(json="type"), Place(json="command")),
        payload="payload",
        kept=("x-slack-retry-num", "x-slack-retry-reason"),
    ),
    entity="event.data.team_id",
    event_types=(
        "app_mention", "message", "reaction_added", "channel_created", "member_joined_channel", "app_home_opened", "team_join",
        "link_shared", "block_actions", "view_submission", "shortcut", "/command",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"team_id":"T123ABC456","api_app_id":"A123ABC456","type":"event_callback","event_id":"Ev123ABC456",'
        '"event":{"type":"message","channel":"C123ABC456","user":"U123ABC456","text":"Live long and prosper."}}',
        events=("message",),
    ),
)  # fmt: skip
