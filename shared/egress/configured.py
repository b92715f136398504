"""Reads the operator's entries of the egress policy from the environment of a service."""

from shared.config import Environment
from shared.egress.policy import EgressRules, Rule, rules


def egress_of(environment: Environment) -> EgressRules:
    """Return the rules of `MILLRACE_EGRESS_ALLOW` and `MILLRACE_EGRESS_DENY`; `environment` remembers a wrong one."""
    return EgressRules((*_rules(environment, "MILLRACE_EGRESS_ALLOW"), *_rules(environment, "MILLRACE_EGRESS_DENY")))


def _rules(environment: Environment, name: str) -> tuple[Rule, ...]:
    try:
        return rules(environment.optional(name) or "", allows=name.endswith("ALLOW"))
    except ValueError as error:
        environment.complain(name, str(error))
        return ()
