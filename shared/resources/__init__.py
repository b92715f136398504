"""Every resource of Millrace: what has a name in an organization and a desired state, declared once, one noun in a file.

From `@resource(...)` above a spec follow its messages, rows, registry, questions and commands, endpoints, their part of the OpenAPI
document, and the verbs of the command line; `shared.owners` holds what follows for their owners.
"""

from shared.resources.connection import Connection
from shared.resources.declaration import KINDS, Kind, Resource, ResourceChanged, ResourceRemoved, Spec
from shared.resources.integration import Integration
from shared.resources.mapping import Mapping
from shared.resources.secret import Secret
from shared.resources.source import Source, SourceEntry
from shared.resources.subscription import Subscription, SubscriptionEntry
from shared.resources.variable import Variable

__all__ = [
    "KINDS",
    "Connection",
    "Integration",
    "Kind",
    "Mapping",
    "Resource",
    "ResourceChanged",
    "ResourceRemoved",
    "Secret",
    "Source",
    "SourceEntry",
    "Spec",
    "Subscription",
    "SubscriptionEntry",
    "Variable",
]
