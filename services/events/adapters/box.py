"""Box webhooks, version 2."""

from __future__ import annotations

from services.events.adapters.declared import Adapter, Sample, text
from services.events.adapters.reading import Reading
from shared.verification import Place, SignatureScheme, Verification

_KEY = "box-signature"


def _scheme(which: str) -> SignatureScheme:
    return SignatureScheme(
        signature=Place(header=f"{_KEY}-{which}"),
        encoding="base64",
        template="{body}{timestamp}",
        timestamp=Place(header="box-delivery-timestamp"),
        timestamp_unit="rfc3339",
        keys=(f"{which}_key",),
        when=((Place(header=f"{_KEY}-version"), "1"),),
        delivery=Place(header="box-delivery-id"),
    )


ADAPTER = Adapter(
    name="box",
    description="Box webhooks, verified by either of an app's two keys, which are changed one after the other.",
    link="https://developer.box.com/guides/webhooks/",
    secrets={"primary_key": text("The app's primary signature key."), "secondary_key": text("The app's secondary signature key.")},
    required=(),
    one_of=(("primary_key", "secondary_key"),),
    verification=lambda _: Verification(schemes=(_scheme("primary"), _scheme("secondary"))),
    parse=Reading(types=(Place(json="trigger"),), kept=("box-delivery-id",)),
    event_types=(
        "FILE.UPLOADED", "FILE.DOWNLOADED", "FILE.DELETED", "FILE.MOVED", "FOLDER.CREATED", "COMMENT.CREATED",
        "COLLABORATION.ACCEPTED", "SHARED_LINK.CREATED", "SIGN_REQUEST.COMPLETED", "WEBHOOK.DELETED",
    ),
    sample=Sample(
        headers={"Content-Type": "application/json", "box-delivery-id": "f96bb54b-ee16-4fc5-aa65-8c2d9e5b546f"},
        body='{"type":"webhook_event","webhook":{"id":"1234567890"},"trigger":"FILE.UPLOADED","source":{"id":"1234567890"}}',
        events=("FILE.UPLOADED",),
    ),
)  # fmt: skip
