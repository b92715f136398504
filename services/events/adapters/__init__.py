"""Adapters: one file per kind of sender.

Each declares an `ADAPTER`: its settings, for given settings how the gateway verifies a request, and how a verified request is
read; a topic has no sender, and nothing to read. Adding an adapter is adding its file, and its name below.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import msgspec
import structlog

from services.events.adapters import (
    adyen,
    alerts,
    api_key,
    basic,
    bitbucket,
    box,
    circleci,
    cloudevents,
    discord,
    dropbox,
    github,
    gitlab,
    hmac,
    http_signatures,
    hubspot,
    ip,
    jira,
    jwt,
    line,
    linear,
    meta,
    microsoft_graph,
    mux,
    none,
    okta,
    paddle,
    pagerduty,
    razorpay,
    sanity,
    sendgrid,
    sentry,
    shopify,
    slack,
    sns,
    square,
    standard_webhooks,
    stripe,
    svix,
    telnyx,
    topic,
    trello,
    twilio,
    typeform,
    x,
    zendesk,
    zoom,
)
from services.events.adapters.declared import Adapter, Declare, Parse, custom
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.errors import Invalid, MillraceError, NotFound, Problem
from shared.verification import Verification

ADAPTERS: dict[str, Adapter] = {
    module.ADAPTER.name: module.ADAPTER
    for module in (
        adyen, alerts, api_key, basic, bitbucket, box, circleci, cloudevents, discord, dropbox, github, gitlab, hmac,
        http_signatures, hubspot, ip, jira, jwt, line, linear, meta, microsoft_graph, mux, none, okta, paddle,
        pagerduty, razorpay, sanity, sendgrid, sentry, shopify, slack, sns, square, standard_webhooks, stripe, svix,
        telnyx, topic, trello, twilio, typeform, x, zendesk, zoom,
    )
}  # fmt: skip
PARSERS: dict[str, Parse] = {name: one.parse for name, one in ADAPTERS.items() if one.parse is not None}
DESCRIPTIONS = {name: one.view() for name, one in ADAPTERS.items()}
VERIFICATIONS: dict[str, Declare] = {name: one.verification for name, one in ADAPTERS.items()}

# Settings whose verification is remembered: most sources of an adapter share theirs.
DECLARED = 1024

_log = structlog.get_logger()


def declared(adapter: str, settings: Mapping[str, Any]) -> Verification:
    """Return a built-in adapter's verification for a source's settings. Raises `Invalid` with the path of what makes none."""
    return declared_by(VERIFICATIONS[adapter], settings)


def declared_by(declare: Declare, settings: Mapping[str, Any]) -> Verification:
    """Return what an adapter declares for a source's settings. Raises as `declared`."""
    try:
        found = declare(settings)
    except ValueError as error:
        raise Invalid(f"the settings make no verification: {error}", errors=(Problem("settings", str(error)),)) from error
    networks = settings.get("networks")
    if networks is None:
        return found
    return msgspec.structs.replace(found, networks=tuple(_network(number, one) for number, one in enumerate(networks)))


def verification_of(adapter: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a built-in adapter's verification for a source's settings, as JSON; None where nothing can be declared for them.

    Settings were checked when their source was put, perhaps by another version of the adapter.
    """
    document = _verification(VERIFICATIONS.get(adapter), adapter, msgspec.json.encode(settings, order="deterministic"))
    return None if document is None else msgspec.json.decode(document)


@functools.lru_cache(DECLARED)
def _verification(declare: Declare | None, adapter: str, settings: bytes) -> bytes | None:
    """Make and check it once for all that have these settings: a list shows it of each of its sources."""
    try:
        if declare is None:
            raise NotFound(f"there is no adapter {adapter!r}")
        document = msgspec.json.encode(declared_by(declare, msgspec.json.decode(settings)))
        msgspec.json.decode(document, type=Verification)
    except (KeyError, TypeError, ValueError, AttributeError, MillraceError) as error:
        _log.error("source.undeclared", adapter=adapter, reason=f"{type(error).__name__}: {error}")
        return None
    return document


def _network(number: int, text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError as error:
        problem = Problem(f"settings.networks.{number}", "is neither an address nor a network")
        raise Invalid(f"{text!r} {problem.message}", errors=(problem,)) from error


__all__ = [
    "ADAPTERS", "DESCRIPTIONS", "PARSERS", "VERIFICATIONS", "Adapter", "Declare", "Parse", "ParsedEvent", "Webhook",
    "custom", "declared", "declared_by", "verification_of",
]  # fmt: skip
