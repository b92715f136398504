"""What the logs service is told by its environment: what every service with tables is, and nothing else."""

from __future__ import annotations

from shared.config import Settings, read

__all__ = ["Settings", "read"]
