"""Calls a hook of the build backend (PEP 517) of the source distribution in the current folder: `hooks.py HOOK DIST ANSWER`.

From the import of the backend on it is in the hands of the distribution's authors. It knows nothing of the platform.
"""

import importlib
import json
import os
import sys
import tomllib
from typing import Any

REQUIRES, BUILD = "get_requires_for_build_wheel", "build_wheel"
_LEGACY: dict[str, Any] = {"requires": ["setuptools>=40.8.0"], "build-backend": "setuptools.build_meta:__legacy__"}
"""Of a distribution that names no backend (PEP 517)."""


def build_system(folder: str) -> dict[str, Any]:
    """Answer `requires`, `build-backend` and `backend-path` of a distribution. Raises OSError, ValueError."""
    try:
        with open(os.path.join(folder, "pyproject.toml"), "rb") as file:
            found = tomllib.load(file).get("build-system", {})
    except FileNotFoundError:
        found = {}
    if not isinstance(found, dict):
        raise ValueError("its build-system is no table")  # noqa: TRY004 - what a file says
    found = {**_LEGACY, **found}
    found.setdefault("backend-path", [])
    for name in ("requires", "backend-path"):
        if not isinstance(found[name], list) or not all(isinstance(one, str) for one in found[name]):
            raise ValueError(f"{name} of its build-system is no list of texts")
    if not isinstance(found["build-backend"], str):
        raise ValueError("the build-backend of its build-system is no text")  # noqa: TRY004
    return found


def name_of(answer: str) -> str:
    """Answer the name of the wheel that the hook has built, which is no path. Raises ValueError."""
    name = json.loads(answer)
    if not isinstance(name, str) or os.path.basename(name) != name or not name.endswith(".whl"):
        raise ValueError("its build answers no name of a wheel")
    return name


def _call(hook: str, dist: str) -> Any:
    system = build_system(".")
    sys.path[:0] = [os.path.abspath(one) for one in system["backend-path"]]
    module, _, path = system["build-backend"].partition(":")
    backend = importlib.import_module(module)
    for part in path.split(".") if path else ():
        backend = getattr(backend, part)
    if hook == BUILD:
        return backend.build_wheel(dist, None, None)
    asked = getattr(backend, REQUIRES, None)  # may be missing
    return [] if asked is None else list(asked(None))


if __name__ == "__main__":
    import site

    site.setquit()  # some setups call `exit`
    _hook, _dist, _answer = sys.argv[1:]
    sys.argv[1:] = []
    _result = json.dumps(_call(_hook, _dist))
    with open(_answer, "w", encoding="utf-8") as _file:
        _file.write(_result)
