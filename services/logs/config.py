"""The logs service's settings, from its environment: those of every service with tables, and no others."""

from __future__ import annotations

from shared.config import Settings, read

__all__ = ["Settings", "read"]
