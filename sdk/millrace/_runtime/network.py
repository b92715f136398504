"""The way out of a child: a proxy, announced to every HTTP client by the settings that it reads by itself."""

import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def use_proxy(address: str) -> None:
    """Have all that is connected from here on go through the proxy at `address`. Before any of the author's code.

    urllib, requests and httpx read the environment. aiohttp does so only for sessions with `trust_env=True`, so that becomes
    its default.
    """
    os.environ.update(dict.fromkeys(_VARIABLES, address))
    # Nothing is reached past the proxy, not even this machine itself: there a refusal comes with its reason.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ""
    client = sys.modules.get("aiohttp.client")
    if client is None:
        sys.meta_path.insert(0, _WhenImported())
    else:
        _trust_env(client)


class _WhenImported:
    """Waits for the author's import of aiohttp: importing it here would cost every child, and few need it."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != "aiohttp.client":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            _trust_env(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _trust_env(client: ModuleType) -> None:
    """Change the default in place: the class, its signature and explicit arguments stay as they are."""
    defaults = getattr(getattr(getattr(client, "ClientSession", None), "__init__", None), "__kwdefaults__", None)
    if isinstance(defaults, dict) and "trust_env" in defaults:
        defaults["trust_env"] = True
