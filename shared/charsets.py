"""The text that senders' bytes are, by the charset that they name."""

from __future__ import annotations

import codecs
import re

from shared.errors import Invalid, Problem
from shared.values import storable

# Charsets that senders write in. Others that Python knows are not charsets of documents, or take quadratic time (idna, punycode).
CHARSETS = frozenset(
    {"ascii", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "koi8-r", "koi8-u"}
    | {"shift_jis", "cp932", "euc_jp", "iso2022_jp", "gb2312", "gbk", "gb18030", "big5", "euc_kr", "mac-roman"}
    | {f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))}
    | {f"cp{page}" for page in (437, 850, 852, 866, 874, *range(1250, 1259))}
)

_CHARSET = re.compile(r';\s*charset\s*=\s*(?:"([^"]*)"|([^;"\s]*))', re.IGNORECASE)


def charset_of(name: str) -> str | None:
    """Return Python's name of a charset that documents may be in, or None."""
    try:
        found = codecs.lookup(storable(name)).name
    except (LookupError, ValueError):
        return None
    return found if found in CHARSETS else None


def media_type_of(content_type: str) -> str:
    """Return the media type that a header names, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def charset_in(content_type: str) -> str | None:
    """Return the charset that a header names, in lower case, or None.

    In time linear in its length, which neither `email` nor aiohttp is: 8 kB of semicolons take them seconds.
    """
    found = _CHARSET.search(content_type)
    return None if found is None else (found[1] if found[1] is not None else found[2]).strip().lower() or None


def decoded_text(raw: bytes, charset: str) -> str:
    """Return bytes of a sender as `storable` text without a byte order mark; bytes outside the charset become U+FFFD.

    Raises `Invalid` for a charset that is unknown.
    """
    found = charset_of(charset)
    if found is None:
        raise Invalid(f"the charset {storable(charset)[:40]!r} is unknown", errors=(Problem("content-type", "unknown charset"),))
    return storable(raw.decode(found, errors="replace").removeprefix("\ufeff"))
