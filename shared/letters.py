"""Dead letters: messages that a consumer gave up, kept in the stream DEAD exactly as they were, with the reason."""

from __future__ import annotations

import base64
import contextlib

import msgspec
import structlog

from shared.commit import Journal, Refused, Stale
from shared.envelope import Envelope, derived_id, open_envelope, seal, utc_now
from shared.errors import Invalid
from shared.messages import DeadLettered
from shared.messages.declaration import KEY, hashed_key
from shared.messages.shards import plain

# Characters of an error that are kept: those of some drivers repeat the whole value.
LONGEST_ERROR = 2000
_log = structlog.get_logger()


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """A message that `consumer` of `service` gave up: where it is, its exact bytes, and why."""

    service: str
    consumer: str
    stream: str
    sequence: int
    subject: str
    document: bytes
    error: str
    reason: str
    tries: int


async def bury(journal: Journal, given_up: GivenUp) -> None:
    """Store the dead letter of a message that a consumer was to handle. Raises `Unavailable`."""
    cause = _envelope_of(given_up)
    original = cause.id if cause else f"{given_up.stream}/{given_up.sequence}"
    await _store(journal, given_up, cause, derived_id(original, "dead", given_up.consumer), None)


async def bury_in_place(journal: Journal, given_up: GivenUp, incarnation: str) -> None:
    """Store the dead letter of a message that a projection could not take, once however often it is replayed.

    The broker remembers ids for minutes; a replay may come years later. So the letter has a subject of its own, which is made of
    the message's place and the projection, and expects to be the first there. Raises `Unavailable`.
    """
    place = hashed_key(incarnation, str(given_up.sequence), given_up.consumer)
    await _store(journal, given_up, _envelope_of(given_up), derived_id(place, "dead"), place)


async def _store(journal: Journal, given_up: GivenUp, cause: Envelope | None, id_: str, place: str | None) -> None:
    tokens = given_up.subject.split(".")
    verb = ".".join(token for token in (plain(tokens[0]), *tokens[2:3]) if KEY.match(token)) or "unknown"
    letter = DeadLettered(
        service=given_up.service,
        verb=verb,
        consumer=given_up.consumer,
        stream=given_up.stream,
        sequence=given_up.sequence,
        subject=given_up.subject,
        document_base64=base64.b64encode(given_up.document).decode(),
        error=given_up.error[:LONGEST_ERROR],
        reason=given_up.reason,
        tries=given_up.tries,
        place=place,
    )
    # In base64 and an envelope of its own the largest messages no longer fit; the archive has the bytes.
    without = msgspec.structs.replace(
        letter, document_base64="", reason=f"{given_up.reason}; its {len(given_up.document)} bytes are in the archive alone"
    )
    for one in (letter, without):
        try:
            sealed = seal(one, service=given_up.service, org=cause.org if cause else "global", now=utc_now(), id=id_, cause=cause)
            await journal.publish(sealed)
        except Stale:
            return
        except Refused as error:
            _log.error("letter.refused", consumer=given_up.consumer, sequence=given_up.sequence, reason=str(error))
        else:
            return


def _envelope_of(given_up: GivenUp) -> Envelope | None:
    with contextlib.suppress(Invalid):
        return open_envelope(given_up.document)
    return None
