"""Amazon SNS, delivering to an HTTPS endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import UNNAMED
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.errors import Invalid
from shared.values import at, text_of
from shared.verification import Algorithm, Handshake, Outside, Place, SignatureScheme, Verification

_HOSTS = ("sns.*.amazonaws.com", "sns.*.amazonaws.com.cn")
_CONFIRMATION = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# The members that are signed, by the type of a message; a subject only where there is one.
_SIGNED = (
    ("Notification", ("Message", "MessageId", "Timestamp", "TopicArn", "Type")),
    ("Notification", ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")),
    ("SubscriptionConfirmation", _CONFIRMATION),
    ("UnsubscribeConfirmation", _CONFIRMATION),
)
_ALGORITHMS: tuple[tuple[str, Algorithm], ...] = (("2", "rsa-v1_5-sha256"), ("1", "rsa-v1_5-sha1"))
# Seconds: SNS tries for an hour by itself, longer where a topic says so, and a message keeps its time.
_TOLERANCE = 6 * 3600.0


def _scheme(topic: str, version: str, algorithm: Algorithm, type_: str, names: tuple[str, ...]) -> SignatureScheme:
    when = [(Place(json="SignatureVersion"), version), (Place(json="Type"), type_), (Place(json="TopicArn"), topic)]
    if type_ == "Notification" and "Subject" not in names:
        when.append((Place(json="Subject", default=""), ""))
    return SignatureScheme(
        algorithm=algorithm,
        signature=Place(json="Signature"),
        encoding="base64",
        template="".join(f"{name}\n{{{'timestamp' if name == 'Timestamp' else name}}}\n" for name in names),
        values={name: Place(json=name) for name in names if name != "Timestamp"},
        timestamp=Place(json="Timestamp"),
        timestamp_unit="rfc3339",
        tolerance=_TOLERANCE,
        keys=(),
        certificate=Outside(url=Place(json="SigningCertURL"), hosts=_HOSTS),
        when=tuple(when),
        delivery=Place(json="MessageId"),
    )


def verification(settings: Mapping[str, Any]) -> Verification:
    """Return the schemes of messages of the topic: anybody's topic is signed by the same certificate."""
    topic = settings.get("topic_arn") or ""
    return Verification(
        schemes=tuple(_scheme(topic, version, algorithm, *one) for version, algorithm in _ALGORITHMS for one in _SIGNED),
        handshakes=(
            Handshake(
                method="POST",
                when=((Place(json="Type"), "SubscriptionConfirmation"),),
                signed=True,
                text="",
                visit=Outside(url=Place(json="SubscribeURL"), hosts=_HOSTS),
            ),
        ),
        content_types=("text/plain", "application/json"),
    )


def parse(webhook: Webhook) -> list[ParsedEvent]:
    """Return one event; `Message` is what it stands for, where it is JSON. Raises `Invalid`."""
    data = webhook.json()
    type_ = text_of(at(data, ("Type",))) or UNNAMED
    message = at(data, ("Message",))
    if isinstance(message, str) and message[:1] in {"{", "["}:
        with contextlib.suppress(Invalid):  # a text may begin like JSON
            data = {**data, "Message": Webhook({}, {}, message.encode(), {}).json()}
    return [ParsedEvent(type_, data)]


ADAPTER = Adapter(
    name="sns",
    description="Messages of one Amazon SNS topic, verified by AWS' certificate, which is fetched from amazonaws.com.",
    link="https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html",
    settings={"topic_arn": text("The topic whose messages are taken.", pattern="^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+$")},
    required=("topic_arn",),
    handshake="SubscriptionConfirmation: its SubscribeURL is visited once its signature is verified.",
    verification=verification,
    parse=parse,
    event_types=("Notification", "UnsubscribeConfirmation"),
    sample=Sample(
        headers={"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"},
        settings={"topic_arn": "arn:aws:sns:us-west-2:123456789012:MyTopic"},
        body='{"Type":"Notification","MessageId":"22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324","Subject":"My First Message",'
        '"TopicArn":"arn:aws:sns:us-west-2:123456789012:MyTopic","Message":"{\\"hello\\":\\"world\\"}",'
        '"Timestamp":"2012-05-02T00:54:06.655Z","SignatureVersion":"2"}',
        events=("Notification",),
    ),
)
