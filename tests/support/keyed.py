"""Loaded by Schemathesis: the requests of each operation come with one key after the other, and name whose it is."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import msgspec
import schemathesis

# By role; None for no key.
_keys = list(msgspec.json.decode(os.environ["MILLRACE_TEST_KEYS"], type=dict[str, str | None]).items())
_requests: Counter[str] = Counter()


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: Any) -> None:
    """Give a request its key."""
    role, key = _keys[_requests[case.operation.label] % len(_keys)]
    _requests[case.operation.label] += 1
    case.headers["X-Role"] = role
    case.headers.pop("Authorization", None)
    if key is not None:
        case.headers["Authorization"] = f"Bearer {key}"
