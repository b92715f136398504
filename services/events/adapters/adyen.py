"""Adyen: standard webhooks, and those of its platforms."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Acknowledgement, Place, SignatureScheme, Verification

_ITEM = "NotificationRequestItem"
_FIRST = f"notificationItems.0.{_ITEM}"
# In the order in which they are signed; an absent one is signed as nothing.
_SIGNED = {
    "psp": "pspReference",
    "original": "originalReference",
    "account": "merchantAccountCode",
    "merchant": "merchantReference",
    "value": "amount.value",
    "currency": "amount.currency",
    "code": "eventCode",
    "success": "success",
}
ITEMS = SignatureScheme(
    signature=Place(json=f"{_ITEM}.additionalData.hmacSignature"),
    encoding="base64",
    key_encoding="hex",
    each="notificationItems",
    template=":".join(f"{{{name}}}" for name in _SIGNED),
    values={name: Place(json=f"{_ITEM}.{path}", default="") for name, path in _SIGNED.items()},
    delivery=Place(json=f"{_FIRST}.pspReference"),
    delivery_with=tuple(Place(json=f"{_FIRST}.{name}") for name in ("eventCode", "success", "eventDate")),
)
BODY = SignatureScheme(signature=Place(header="hmacsignature"), encoding="base64", key_encoding="hex")
ADAPTER = Adapter(
    name="adyen",
    description="Adyen's standard webhooks, whose items are signed one by one, and platform webhooks, verified by HmacSignature.",
    link="https://docs.adyen.com/development-resources/webhooks/",
    secrets={"secret": text("The HMAC key, hexadecimal.", pattern="^(?:[0-9A-Fa-f]{2})+$")},
    verification=lambda _: Verification(schemes=(BODY, ITEMS), acknowledgement=Acknowledgement(text="[accepted]")),
    parse=Reading(
        types=(Place(json="eventCode"), Place(json="type")), each="notificationItems", item=_ITEM
    ),
    event_types=(
        "AUTHORISATION", "CAPTURE", "CANCELLATION", "REFUND", "CHARGEBACK", "NOTIFICATION_OF_CHARGEBACK", "REPORT_AVAILABLE",
        "RECURRING_CONTRACT", "balancePlatform.transfer.created", "balancePlatform.accountHolder.updated",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json"},
        body='{"live":"false","notificationItems":[{"NotificationRequestItem":{"pspReference":"7914073381342284",'
        '"eventCode":"AUTHORISATION","merchantAccountCode":"TestMerchant","amount":{"value":1130,"currency":"EUR"},"success":"true"}},'
        '{"NotificationRequestItem":{"pspReference":"7914073381342285","eventCode":"CAPTURE","success":"true"}}]}',
        events=("AUTHORISATION", "CAPTURE"),
    ),
)  # fmt: skip
