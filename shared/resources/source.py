"""Sources: webhook endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.resources.declaration import IntegrationName, Link, Resource, Settings, Spec, about, resource
from shared.resources.shapes import Moment
from shared.values import Name

# The names of the adapters of Millrace itself, which no adapter of a workspace may have.
BUILT_IN = frozenset(
    {
        *(
            "adyen",
            "alerts",
            "api-key",
            "basic",
            "bitbucket",
            "box",
            "circleci",
            "cloudevents",
            "discord",
            "dropbox",
            "github",
            "gitlab",
        ),
        *("hmac", "http-signatures", "hubspot", "ip", "jira", "jwt", "line", "linear", "meta", "microsoft-graph", "mux", "none"),
        *("okta", "paddle", "pagerduty", "razorpay", "sanity", "sendgrid", "sentry", "shopify", "slack", "sns", "square"),
        *("standard-webhooks", "stripe", "svix", "telnyx", "topic", "trello", "twilio", "typeform", "x", "zendesk", "zoom"),
    }
)
# Settings of every source that takes webhooks.
COMMON_SETTINGS = ("rate", "weight", "networks", "max_body")

RegistrationStatus = Literal["pending", "creating", "active", "failing", "expired"]


class RegistrationView(msgspec.Struct, frozen=True, kw_only=True):
    """How a source is registered with its sender: the id there, when that ends, and when it is renewed or tried again.

    `error` is why the last `tries` failed, and what can be done; at `missed_at` the sender said that events were missed.
    """

    status: RegistrationStatus
    remote: str | None = None
    expires_at: Moment | None = None
    error: str | None = None
    tries: int = 0
    next_at: Moment | None = None
    missed_at: Moment | None = None


class SourceAdds(msgspec.Struct, frozen=True):
    """The address that the sender is given (a topic has none), and the registration of a source that asks for one.

    `verification` is how its webhooks are verified, as its adapter declares it; null where the adapter is not there.
    """

    url: Link | None
    registration: RegistrationView | None = None
    verification: dict[str, Any] | None = None


@resource(
    "source",
    plural="sources",
    owner="events",
    registered=("gateway", "events"),
    # All of every organization are held in memory at each gateway.
    most=1000,
    columns=("name", "adapter", "enabled", "url", "updated_at"),
    adds=SourceAdds,
    example={"adapter": "github", "settings": {"secret": "a long random text"}},
)
class Source(Spec, frozen=True, kw_only=True):
    """A webhook endpoint: an adapter and its settings, of which the adapter's schema says which are secret.

    `integration` is the one whose mapping its events are routed with. `entity` is the path of the text in an event that says about
    whom it is in the sender's system; a source of the platform may serve many organizations, each event going to the one whose
    mapping has that text as its `entity_id` (`by_entity`).
    """

    adapter: Annotated[Name, about("What the sender is: `millrace adapters` lists them.")]
    settings: Annotated[Settings, about("What the adapter needs; its schema says which are secret.")] = msgspec.field(
        default_factory=dict
    )
    enabled: Annotated[bool, about("Whether it takes webhooks.")] = True
    integration: Annotated[IntegrationName, about("The integration whose mapping its events are routed with.")] | None = None
    entity: (
        Annotated[Name, about("Where an event says about whom it is: `event.data.team_id`. By default where the adapter knows.")]
        | None
    ) = None
    by_entity: Annotated[bool, about("Whether each event's entity picks the organization that it is routed in.")] = False


SourceEntry = Resource[Source]
