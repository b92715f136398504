"""GitHub webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import text_at
from services.events.adapters.registering import Given, Registering, SenderResource, segment
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


def _resource(given: Mapping[str, Any]) -> SenderResource:
    owner, _, name = given["repository"].partition("/") if "repository" in given else ("", "", "")
    whole = f"repos/{segment(owner)}/{segment(name)}" if owner else f"orgs/{segment(given['organization'])}"
    config = {"url": Given.CALLBACK, "content_type": "json", "insecure_ssl": "0", "secret": Given.SECRET}
    renewed = {"active": True, "events": [*given["events"]], "config": config}
    return SenderResource(collection=f"{whole}/hooks", created={"name": "web"} | renewed, renewed=renewed)


_NAME = "[A-Za-z0-9._-]{1,100}"
REGISTERING = Registering(
    api="https://api.github.com",
    headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
    settings={
        "repository": {"type": "string", "description": "The repository, as `owner/name`.", "pattern": f"^{_NAME}/{_NAME}$"},
        "organization": {"type": "string", "description": "The organization, in place of a repository.", "pattern": f"^{_NAME}$"},
        "events": {
            "type": "array",
            "description": 'Which events are sent, by the names of their headers: `push`, `pull_request`; or `["*"]`.',
            "items": {"type": "string", "pattern": r"^([a-z_]{1,100}|\*)$"},
            "minItems": 1,
            "maxItems": 100,
            "uniqueItems": True,
        },
    },
    required=("events",),
    one_of=("repository", "organization"),
    resource=_resource,
    callback="config.url",
    advice={
        403: "give the token the right to manage webhooks (`admin:repo_hook`, or `admin:org_hook`)",
        404: "check the name, and give the token the right to manage webhooks (`admin:repo_hook`, or `admin:org_hook`)",
        422: "check the events, and whether there are 20 webhooks of one event already",
    },
)
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
    required=(),
    one_of=(("secret", "registration"),),
    registering=REGISTERING,
)  # fmt: skip
