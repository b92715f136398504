"""Microsoft Graph's notifications that hold what has changed: asked for, decrypted by the source's key, and over a rotation."""

from __future__ import annotations

from typing import Any

import pytest

from services.events.adapters.graph_content import certified
from shared.envelope import open_message
from shared.errors import Invalid
from shared.messages import DeadLettered, EventAccepted
from tests.integration.test_gateway import stream
from tests.integration.test_registrations import RESOURCE, Registered, registered, soon, stored, until
from tests.support.encrypting import pair
from tests.support.inside import bus_of, eventually
from tests.support.registering import graph
from tests.support.servers import Place

__all__ = ["soon"]
OLD, NEW, OTHER = ("".join(pair(name)) for name in ("old", "new", "other"))


async def events_of(place: Place, count: int) -> list[EventAccepted]:
    async def there() -> list[EventAccepted] | None:
        found = [open_message(one, EventAccepted) for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
        return found if len(found) >= count else None

    found = await eventually(there)
    assert isinstance(found, list)
    return found


async def refused(made: Registered, **given: Any) -> str:
    with pytest.raises(Invalid) as caught:
        await made.put(resource_data=True, **given)
    return f"{caught.value.errors[0].path}: {caught.value.detail}"


async def test_content_is_encrypted_for_the_certificate_of_the_source_and_read_by_its_key(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        assert (await refused(made)).startswith("settings.certificate: settings.certificate is required")
        wrong = await refused(made, secrets={"certificate": pair("old")[0] + pair("new")[1]})
        assert (wrong.startswith("settings.certificate: "), "of another key" in wrong) == (True, True)
        source = await made.put(resource_data=True, secrets={"certificate": OLD})
        assert source.secrets == ["certificate", "secret"]
        first = (await made.until("active"))["remote"]
        before = server.made[first]
        assert before["includeResourceData"] is True
        assert (before["encryptionCertificate"], before["encryptionCertificateId"]) == (
            certified(OLD).certificate,
            certified(OLD).id,
        )
        content = {"id": "m1", "subject": "Grüße"}
        assert await server.notify(first, changeType="created", resource=RESOURCE, content=content) == 202
        assert await server.notify(first, lifecycleEvent="reauthorizationRequired") == 202
        await until(lambda: server.counted()["PATCH"] == 1)
        # Another certificate is another subscription; what is still encrypted for the one before is read as well.
        await made.put(resource_data=True, secrets={"certificate": NEW, "previous_certificate": OLD})
        await until(lambda: [one["encryptionCertificateId"] for one in server.there().values()] == [certified(NEW).id])
        (second,) = server.there()
        await made.until("active", remote=second)
        late = before | {"clientState": server.made[second]["clientState"]}
        assert await server.notify(first, as_of=late, changeType="updated", content=content) == 202
        assert await server.notify(second, changeType="deleted", content={"id": "m2"}) == 202
        found = await events_of(place, 4)
        assert [(one.type, one.data.get("content")) for one in found] == [
            ("created", content),
            ("reauthorizationRequired", None),
            ("updated", content),
            ("deleted", {"id": "m2"}),
        ]
        assert not [one for one in found if "encryptedContent" in one.data]
        async with bus_of(place, "admin") as admin:
            kept = b"".join([one for name in ("CATALOG", "WEBHOOKS", "EVENTS", "AUDIT") for one in await stored(admin, name)])
        assert kept
        assert b"PRIVATE KEY" not in kept


async def test_content_that_cannot_be_read_is_a_dead_letter_that_says_why(place: Place) -> None:
    async with graph() as server, registered(place, server) as made:
        await made.connect()
        await made.put(resource_data=True, secrets={"certificate": OLD})
        first = (await made.until("active"))["remote"]
        other = server.made[first] | {"encryptionCertificate": certified(OTHER).certificate, "encryptionCertificateId": "mine"}
        assert await server.notify(first, as_of=other, changeType="created", content={}) == 202

        async def buried() -> list[Any]:
            return await stream(place, "DEAD")

        (letter,) = await eventually(buried)  # type: ignore[misc]
        error = open_message(letter, DeadLettered).error
        assert (
            "value.0.encryptedContent cannot be read: it is encrypted for another certificate than the source has: 'mine'" in error
        )
        # Without a key it is the workflow's.
        await made.put("plain", resource="users/b2/messages")
        plain = (await made.until("active", "plain"))["remote"]
        as_of = server.made[plain] | {"encryptionCertificate": certified(OTHER).certificate, "encryptionCertificateId": "mine"}
        assert await server.notify(plain, as_of=as_of, changeType="created", content={}) == 202
        (event,) = await events_of(place, 1)
        assert "dataKey" in event.data["encryptedContent"]
