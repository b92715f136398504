"""The answer of an API to a request of a client."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from millrace.errors import StatusError

_SHOWN = 200
"""Characters of a body in an error."""
_SECONDS = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Reply:
    """An answer, whatever its status: `content` is the body, `headers` have names in lower case, `url` is where it came from."""

    status: int = 200
    content: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    reason: str = ""
    method: str = ""
    url: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Texts that are `***` in an error about it."""

    @property
    def ok(self) -> bool:
        """Whether the status is one of success, from 200 to 299."""
        return 200 <= self.status <= 299

    @property
    def text(self) -> str:
        """The body as UTF-8; other bytes become U+FFFD."""
        return self.content.decode(errors="replace")

    @property
    def retry_after(self) -> float | None:
        """The seconds after which the API wants to be asked again, by `Retry-After`; None where it gives none."""
        given = self.headers.get("retry-after", "").strip()
        if _SECONDS.fullmatch(given):
            return float(given)
        from email.utils import parsedate_to_datetime  # a dozen modules, for what few APIs send

        try:
            at = parsedate_to_datetime(given)
        except ValueError:
            return None
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return max(0.0, (at - datetime.now(UTC)).total_seconds())

    def json(self) -> Any:
        """Answer the body as JSON. Raises ValueError."""
        return json.loads(self.content)

    def raise_for_status(self) -> "Reply":
        """Answer the reply itself. Raises `StatusError` unless its status is one of success."""
        if self.ok:
            return self
        said = " ".join(self.text[: 4 * _SHOWN].split())[:_SHOWN]
        about = f"{self.method} {self.url} was answered {self.status} {self.reason}".strip()
        raise StatusError(masked(f"{about}: {said}" if said else about, self.secrets), self)


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Answer the text with `***` in the place of each secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
