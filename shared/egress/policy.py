"""The egress policy of an organization. Pure: no socket, no clock; the caller has resolved the name.

Two questions are asked of every connection, and both answers must be yes: may this *name* be reached, and may each
*address* that it resolves to. A name's rules never open an address, so that pointing a name somewhere else gains nothing.
Among the rules that fit, the narrowest decides, an operator's before a built-in one.
"""

import re
from ipaddress import ip_address, ip_network

import msgspec

from shared.egress.addresses import PUBLIC, SPECIAL, Address, Network, inside

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_ORG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMERIC = re.compile(r"[\[/%]|^[0-9.]+(?::.*)?$")
"""Text that can only be meant as an address or a network."""


class Target(msgspec.Struct, frozen=True):
    """The host of a request: a name in lower case without a last dot, or an address."""

    host: str
    port: int
    address: Address | None = None

    def __str__(self) -> str:
        """Return it as an authority: `host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Refusal(msgspec.Struct, frozen=True):
    """Why not: a code for machines, and a sentence in ASCII for people."""

    code: str
    detail: str


class Rule(msgspec.Struct, frozen=True):
    """One entry. Exactly one of `network` and `pattern` is set; a pattern is a name, `*.suffix`, or `*`."""

    allows: bool
    code: str
    what: str
    network: Network | None = None
    pattern: str | None = None
    port: int | None = None
    org: str | None = None
    built_in: bool = False

    @property
    def rank(self) -> tuple[int, int, int, bool, bool]:
        """Return the sort key of a rule, largest for the narrowest; of two that are equal the refusing one wins."""
        if self.network is not None:
            width, length = 0, self.network.prefixlen
        else:
            pattern = self.pattern or ""
            width, length = 2 - pattern.count("*") - (pattern == "*"), len(pattern)
        owner = 0 if self.built_in else 1 if self.org is None else 2
        return width, length, owner, self.port is not None, not self.allows

    def fits_name(self, host: str, port: int) -> bool:
        """Return whether this is about a name."""
        if self.pattern is None or self.port not in (None, port):
            return False
        return self.pattern in ("*", host) or (self.pattern[0] == "*" and host.endswith(self.pattern[1:]))

    def fits_address(self, address: Address, port: int) -> bool:
        """Return whether this is about an address."""
        return self.network is not None and self.port in (None, port) and address in self.network


_BUILT_IN = (
    *(Rule(allows=True, code="public", what="a public address", network=network, built_in=True) for network in PUBLIC),
    *(Rule(allows=False, code=code, what=what, network=network, built_in=True) for network, code, what in SPECIAL),
)


class EgressPolicy:
    """The hosts that the runs of one organization may reach."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self._names = sorted((rule for rule in rules if rule.pattern), key=lambda rule: rule.rank, reverse=True)
        addresses = [*(rule for rule in rules if rule.network), *_BUILT_IN]
        addresses.sort(key=lambda rule: rule.rank, reverse=True)
        self._addresses = {
            version: [rule for rule in addresses if rule.network and rule.network.version == version] for version in (4, 6)
        }

    def refusal_of_name(self, target: Target) -> Refusal | None:
        """Return why a name may not be reached, before its addresses are resolved."""
        if target.address is not None and self.is_opened(target.address, target.port):
            return None  # a rule that allows an address allows naming it
        rule = next((rule for rule in self._names if rule.fits_name(target.host, target.port)), None)
        if rule is None or rule.allows:
            return None
        return Refusal("host", f"{target.host} is {rule.what}")

    def refusal_of_address(self, address: Address, port: int) -> Refusal | None:
        """Return why an address may not be reached: for itself, or for an IPv4 address inside it."""
        for one in (address, *inside(address)):
            rule = self._rule(one, port)
            if not rule.allows:
                shown = f"{address}" if one == address else f"{address} stands for {one}, which"
                return Refusal(rule.code, f"{shown} is {rule.what}")
        return None

    def is_opened(self, address: Address, port: int) -> bool:
        """Return whether an operator's own entry allows this address."""
        rule = self._rule(address, port)
        return rule.allows and not rule.built_in

    def _rule(self, address: Address, port: int) -> Rule:
        return next(rule for rule in self._addresses[address.version] if rule.fits_address(address, port))


class EgressRules:
    """An operator's entries, for all organizations and for single ones."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        orgs = {rule.org for rule in rules}
        self._policies = {org: EgressPolicy(tuple(rule for rule in rules if rule.org in (None, org))) for org in orgs | {None}}

    def of(self, org: str) -> EgressPolicy:
        """Return the policy for the runs of `org`."""
        return self._policies.get(org, self._policies[None])


def rules(text: str, *, allows: bool) -> tuple[Rule, ...]:
    """Read entries apart by commas or blanks. Raises ValueError, which names the wrong one and the reason.

    An entry is a name, `*.name` (everything below it), `*`, an address or a CIDR network; with `:port` for that port only (IPv6
    in brackets then), and with `org=` before it for one organization only.
    """
    found: list[Rule] = []
    for entry in re.split(r"[\s,]+", text):
        try:
            found += [_rule(entry, allows=allows)] if entry else []
        except ValueError as error:
            raise ValueError(f"{entry!r}: {error}") from None
    return tuple(found)


def target(authority: str, default_port: int | None = None) -> Target:
    """Read `host:port` as a request has it. Raises ValueError.

    Only the standard spelling of an address makes one; any other (2130706433, 0x7f.1) is a name like others, and is
    judged by its addresses.
    """
    host, port = _split(authority)
    if port is None and default_port is None:
        raise ValueError("the port is missing")
    number = default_port or 0 if port is None else _port(port)
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        if not _NAME.fullmatch(name):
            raise ValueError("the host is neither a name nor an address") from None
        return Target(name, number)
    return Target(str(address), number, address)


def _split(authority: str) -> tuple[str, str | None]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or ":" not in host or "%" in host or (rest and rest[0] != ":"):
            raise ValueError("the address in brackets is malformed")
        return host, rest[1:] if rest else None
    host, colon, after = authority.partition(":")
    return host, after if colon else None


def _rule(entry: str, *, allows: bool) -> Rule:
    org, equals, rest = entry.rpartition("=")
    if equals and not _ORG.fullmatch(org):
        raise ValueError(f"{org!r} is not the name of an organization")
    owner = org if equals else None
    what = f"denied by this installation (by its entry {entry!r})"
    if _NUMERIC.search(rest) or rest.count(":") > 1:
        network, port = _network(rest)
        return Rule(allows=allows, code="address", what=what, network=network, port=port, org=owner)
    host, colon, after = rest.lower().partition(":")
    pattern = host.removesuffix(".")
    if not (pattern == "*" or _NAME.fullmatch(pattern.removeprefix("*."))):
        raise ValueError("it is no name, *.name, *, address or network")
    return Rule(allows=allows, code="host", what=what, pattern=pattern, port=_port(after) if colon else None, org=owner)


def _network(text: str) -> tuple[Network, int | None]:
    if "%" in text:
        raise ValueError("an address has no zone here")
    if not text.startswith("[") and text.count(":") > 1:
        return ip_network(text), None
    host, port = _split(text)
    return ip_network(host), None if port is None else _port(port)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port")
    return int(text)
