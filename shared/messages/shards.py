"""The shards of a stream that is split: all messages of a key are in one, which a hash of the key selects.

The noun of a subject names the shard (`run-2.<id>.started` is in `RUNS-2`): a stream takes subjects by whole tokens, and an
expectation is compared with the subjects that are stored. The first shard has the plain names, and is all there is of a stream
that is not split. Types, keys and envelopes name no shard.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

VARIABLE = "MILLRACE_RUN_SHARDS"
# Each has readers and consumers of its own in every process; memory of a gigabyte and a writer's disk are bounds from some on.
MOST = 16
# Bytes of a key's hash that count.
_COUNTED = 3


def told(variables: Mapping[str, str]) -> int:
    """Return the number of shards of RUNS that these variables tell: 1 where they tell none, or what `shared.config` refuses."""
    try:
        number = int(variables.get(VARIABLE, "").strip() or "1")
    except ValueError:
        return 1
    return number if 1 <= number <= MOST else 1


# By noun, as STREAM_OF_NOUN is: what is declared of streams and their consumers follows, and no process knows two numbers. Whether
# the streams were made for this one is looked at before anything is published (`shared.sharding`).
SHARDS = {"run": told(os.environ)}


def shards_of(noun: str) -> int:
    """Return in how many shards the messages of a noun are."""
    return SHARDS.get(noun, 1)


def shard_of(key: str, shards: int) -> int:
    """Return the shard of a key among so many."""
    if shards == 1:
        return 0
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:_COUNTED]) % shards


def shard_in_sql(column: str, shards: int) -> str:
    """Return `shard_of` as an expression of Postgres."""
    if shards == 1:
        return "0"
    places = [
        f"{256 ** (_COUNTED - 1 - place)} * get_byte(sha256(convert_to({column}, 'UTF8')), {place})" for place in range(_COUNTED)
    ]
    return f"mod({' + '.join(places)}, {shards})"


def in_shard(name: str, shard: int) -> str:
    """Return the name of a shard's stream, noun or projection for the plain one."""
    return f"{name}-{shard}" if shard else name


def subject_in(subject: str, shard: int) -> str:
    """Return a subject, or a filter of subjects, as it is in a shard."""
    noun, dot, rest = subject.partition(".")
    return in_shard(noun, shard) + dot + rest


def noun_of(noun: str, key: str) -> str:
    """Return the noun that the subjects of a key begin with."""
    return in_shard(noun, shard_of(key, shards_of(noun)))


def plain(noun: str) -> str:
    """Return the noun of messages for that of their subjects."""
    return noun.partition("-")[0]
