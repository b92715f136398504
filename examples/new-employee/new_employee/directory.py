"""Microsoft Graph: accounts, groups, and the pass by which somebody signs in the first time."""

import secrets
import unicodedata

from millrace import connections

graph = connections.client("graph")


def alias(given: str, family: str) -> str:
    """Return the part of an address before the @, in letters that every system takes."""
    text = unicodedata.normalize("NFKD", f"{given}.{family}".lower().replace("ß", "ss").replace(" ", "-"))
    return "".join(one for one in text if one.isascii() and (one.isalnum() or one in ".-"))


async def account(address: str, person: dict) -> str:
    """Return the id of the account with this address, which is made where there is none."""
    there = await graph.aget(f"/users/{address}", params={"$select": "id"})
    if there.status != 404:
        return there.raise_for_status().json()["id"]
    made = {
        "accountEnabled": True,
        "displayName": f"{person['given_name']} {person['family_name']}",
        "givenName": person["given_name"],
        "surname": person["family_name"],
        "department": person["department"],
        "mailNickname": address.partition("@")[0],
        "userPrincipalName": address,
        "usageLocation": person.get("country", "US"),
        # Nobody is told it: the first sign-in is by a pass.
        "passwordProfile": {"forceChangePasswordNextSignIn": True, "password": secrets.token_urlsafe(32)},
    }
    return (await graph.apost("/users", json=made)).raise_for_status().json()["id"]


async def join(user: str, group: str) -> None:
    """Make somebody a member of a group; who is one already is answered 400."""
    member = {"@odata.id": f"https://graph.microsoft.com/v1.0/directoryObjects/{user}"}
    reply = await graph.apost(f"/groups/{group}/members/$ref", json=member)
    if reply.status != 400 or "already exist" not in reply.text:
        reply.raise_for_status()


async def first_pass(user: str) -> str:
    """Return a pass that is good for one sign-in within eight hours."""
    asked = {"lifetimeInMinutes": 480, "isUsableOnce": True}
    reply = await graph.apost(f"/users/{user}/authentication/temporaryAccessPassMethods", json=asked)
    return reply.raise_for_status().json()["temporaryAccessPass"]
