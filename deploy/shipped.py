"""Files of the source tree that programs of `deploy` read: a wheel has them beside these (pyproject.toml)."""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Return where a file or folder is that has this path in the source tree."""
    inside = HERE / name
    return inside if inside.exists() else HERE.parent / name
