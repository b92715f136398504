"""Slack, which answers 200 to what it refuses as well."""

from typing import Any

from millrace import connections

slack = connections.client("slack")


class SlackRefused(Exception):
    """Slack said no. As text: the method and its reason."""

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"{method}: {reason}")
        self.reason = reason


async def call(method: str, *, fine: tuple[str, ...] = (), **arguments: Any) -> dict:
    """Call a method; errors in `fine` are none. Raises `SlackRefused`, `StatusError`."""
    answer = (await slack.apost(f"/{method}", data=arguments)).raise_for_status().json()
    if not answer["ok"] and answer["error"] not in fine:
        raise SlackRefused(method, answer["error"])
    return answer


async def member(address: str) -> str | None:
    """Return the id of who has this address; None while there is nobody."""
    answer = await call("users.lookupByEmail", fine=("users_not_found",), email=address)
    return answer["user"]["id"] if answer["ok"] else None


async def invite(channel: str, user: str) -> None:
    """Have somebody in a channel."""
    await call("conversations.invite", fine=("already_in_channel",), channel=channel, users=user)


async def tell(user: str, text: str) -> None:
    """Write to somebody alone."""
    opened = await call("conversations.open", users=user)
    await call("chat.postMessage", channel=opened["channel"]["id"], text=text)
