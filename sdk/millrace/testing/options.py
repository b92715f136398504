"""The options of a data provider, in this process."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from millrace.testing.play import run

Options = list[dict[str, Any]]


def options(provider: Callable[..., Any], given: Mapping[str, Any] | None = None, /, **fakes: Any) -> Options:
    """Answer the options of a data provider for an input, as a form would have them; `fakes` are those of `run`.

    Raises what the provider raised, and TypeError for a result that is no list of options.
    """
    result = run(provider, given, **fakes).value()
    if not isinstance(result, list):
        msg = f"a data provider returns a list of options, not {type(result).__name__}"
        raise TypeError(msg)
    return [_option(number, one) for number, one in enumerate(result)]


def _option(number: int, one: Any) -> dict[str, Any]:
    found = one if isinstance(one, dict) else {"value": one}
    if one is None or isinstance(one, list) or "value" not in found or not isinstance(found.get("label", ""), str):
        msg = f"number {number} is no option: {one!r}"
        raise TypeError(msg)
    value = found["value"]
    return {"value": value, "label": value if isinstance(value, str) else json.dumps(value)} | found
