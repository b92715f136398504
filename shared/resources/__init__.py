"""Every resource of Millrace: an entity with a name in an organization and a desired state, declared once, one noun in a file.

From `@resource(...)` above a spec follow its messages, rows, registry, questions and commands, endpoints, their part of the OpenAPI
document, and the verbs of the command line; `shared.owners` holds what follows for their owners.
"""

import importlib
import pkgutil

from shared.resources.declaration import KINDS, Kind, Resource, ResourceChanged, ResourceRemoved, Spec

# A new noun is its file: no list names it.
for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    if not _module.startswith("_"):
        importlib.import_module(f"{__name__}.{_module}")
