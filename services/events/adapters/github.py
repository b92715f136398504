"""GitHub webhooks."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import text_at
from services.events.adapters.webhook import FORM, ParsedEvent, Webhook
from shared.errors import Invalid
from shared.verification import Place, SignatureScheme, Verification

_KEPT = ("x-github-event", "x-github-delivery", "x-github-hook-id", "user-agent")
_ACTION = Place(json="action")
SCHEME = SignatureScheme(
    signature=Place(header="x-hub-signature-256", prefix="sha256="), delivery=Place(header="x-github-delivery")
)


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event: `push`, or with an action `pull_request.opened`. Raises `Invalid` without an event header."""
    name = webhook.headers.get("x-github-event")
    if not name:
        raise Invalid("the request has no X-GitHub-Event header")
    if webhook.media_type == FORM:
        payload = webhook.form().get("payload")
        if not isinstance(payload, str):
            raise webhook.lacks("form field named payload")
        data = Webhook({}, {}, payload.encode(), {}).json()
    else:
        data = webhook.json()
    action = text_at(_ACTION, webhook, data)
    kept = {header: webhook.headers[header] for header in _KEPT if header in webhook.headers}
    return [ParsedEvent(f"{name}.{action}" if action else name, data, kept)]


ADAPTER = Adapter(
    name="github",
    description="GitHub repository, organization and app webhooks, verified by X-Hub-Signature-256.",
    link="https://docs.github.com/en/webhooks/webhook-events-and-payloads",
    secrets={"secret": text("The webhook's secret.")},
    # The older signature, by SHA-1, is sent beside and not looked at.
    verification=lambda _: Verification(
        schemes=(SCHEME,), content_types=("application/json", FORM), redacted=(Place(header="x-hub-signature"),)
    ),
    parse=parse,
    entity="event.data.installation.id",
    event_types=(
        "check_run.completed", "create", "delete", "deployment_status.created", "issue_comment.created", "issues.opened",
        "pull_request.closed", "pull_request.opened", "pull_request.synchronize", "pull_request_review.submitted", "push",
        "release.published", "workflow_run.completed", "ping",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "X-GitHub-Event": "issues"},
        body='{"action":"opened","issue":{"number":1347,"title":"Found a bug"},"repository":{"full_name":"octocat/Hello-World"}}',
        events=("issues.opened",),
    ),
)  # fmt: skip
