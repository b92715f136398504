"""`secrets`: values that the organization has put in for its runs, and that no caller can read out.

In a workflow:

    from millrace import secrets, workflow

    @workflow
    def sign(text: str) -> str:
        return hmac.new(secrets.get("signing.key").encode(), text.encode(), "sha256").hexdigest()
"""

from millrace import _bounds
from millrace._runtime import channel


class Secrets:
    """Asks for a secret by name: the organization's own, else the one that the platform has for all.

    A secret of eight characters or more is `***` from then on in everything that the run says: lines, results, errors and
    the records of steps. Each call is on the organization's audit trail, so keep what you were given instead of asking in a loop.
    """

    def get(self, name: str) -> str:
        """Answer the secret, waiting for it. Raises `Refused` where there is none, `NotInRun` outside a run.

        Inside a coroutine prefer `await secrets.aget(name)`: this one holds up the event loop while it waits.
        """
        value: str = channel.ask("secrets", "secret", name=_name(name))["value"]
        return value

    async def aget(self, name: str) -> str:
        """Answer the secret without holding up the event loop. Raises like `get`."""
        value: str = (await channel.aask("secrets", "secret", name=_name(name)))["value"]
        return value


def _name(name: object) -> str:
    return _bounds.text(name, "a secret's name")


secrets = Secrets()
