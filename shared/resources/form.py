"""Forms: pages on which people fill in the input of a workflow, and start it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Link, Resource, Role, SecretText, Spec, about, resource
from shared.resources.shapes import Burst, Moment, PerSecond
from shared.values import Name, Words

# Where they are opened; the gateway serves them.
PAGE = "/forms"
MOST_FIELDS = 100
# Bytes of JSON of a form: each gateway has those of all organizations in memory.
MOST_JSON = 64 * 1024
# Bytes of a file that somebody sends, at most, and unless the field says less. It is held in memory until it is kept.
MOST_BYTES, USUAL_BYTES = 20 * 1024 * 1024, 5 * 1024 * 1024
Text = Annotated[str, msgspec.Meta(max_length=5000)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class OptionsOfField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The choices of a field: those of a data provider, whose parameters are given by fields that stand before."""

    provider: Annotated[Name, about("The data provider.")]
    input: Annotated[
        dict[Name, Name], msgspec.Meta(max_length=20), about("By the provider's parameter: the field that gives it.")
    ] = msgspec.field(default_factory=dict)


class FileOfField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What files a field takes. The run is given where the file is, and not its content."""

    types: Annotated[
        list[Name], msgspec.Meta(max_length=20), about("`application/pdf`, `image/*`, `.csv`; without any, all of them.")
    ] = msgspec.field(default_factory=list)
    most_bytes: Annotated[int, msgspec.Meta(ge=1, le=MOST_BYTES), about("How large a file may be.")] = USUAL_BYTES


class FieldOfForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter of the workflow that is asked for, or, by `customer.name`, one within it."""

    name: Annotated[Name, about("The parameter.")]
    label: Annotated[Words, about("What people read; the title that its schema has, or its name, unless given.")] | None = None
    help: Annotated[Words, about("A sentence below it; what its schema says unless given.")] | None = None
    options: Annotated[OptionsOfField, about("Its choices.")] | None = None
    file: Annotated[FileOfField, about("It takes a file.")] | None = None


class CheckOfForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service that tells people from programs: Turnstile, hCaptcha, reCAPTCHA, or one's own that is asked as these are.

    Its script fills in `field`; the gateway posts `secret`, `response` and `remoteip` to `verify`, which answers `success`.
    """

    verify: Annotated[Address, about("Where a solution is verified.")]
    field: Annotated[Name, about("The field that the service's script fills in.")] = "cf-turnstile-response"
    script: Annotated[Address, about("The script of the service; none for a front end of one's own.")] | None = None
    element: Annotated[Name, about("The class of the element that the script looks for.")] = "cf-turnstile"
    site_key: Annotated[Words, about("The public key of the site, which the script is told.")] = ""
    frames: Annotated[
        list[Address], msgspec.Meta(max_length=5), about("Origins of the frames that it opens; that of the script unless given.")
    ] = msgspec.field(default_factory=list)


class FormAdds(msgspec.Struct, frozen=True):
    """Where it is opened; `warnings`: what its workflow, as it is now, does not have, or needs."""

    url: Link
    warnings: list[Problem]


@resource(
    "form",
    plural="forms",
    owner="events",
    registered=("gateway",),
    # Each gateway has all of them in memory.
    most=500,
    columns=("name", "title", "workflow", "access", "enabled", "url", "warnings"),
    adds=FormAdds,
    example={"workflow": "sync-tickets", "title": "Sync", "fields": [{"name": "limit", "label": "How many"}], "access": "link"},
)
class Form(Spec, frozen=True, kw_only=True):
    """A page on which people fill in the input of a workflow and start it, in a browser without scripts too.

    Asked for are the `fields`, in their order and no others; without any, all parameters of the workflow. `input` is given besides.
    """

    workflow: Annotated[Name, about("What is run.")]
    title: Annotated[Words, about("The heading; the form's name unless given.")] = ""
    text: Annotated[Text, about("What is said above the fields.")] = ""
    fields: Annotated[list[FieldOfForm], msgspec.Meta(max_length=MOST_FIELDS), about("What is asked for.")] = msgspec.field(
        default_factory=list
    )
    input: Annotated[dict[str, Any], about("Parameters that nobody is asked for, and nobody can change.")] = msgspec.field(
        default_factory=dict
    )
    access: Annotated[
        Literal["role", "link", "public"],
        about("Who may open it besides those with the role: nobody, whoever has a link, everybody."),
    ] = "role"
    role: Annotated[Role, about("The least role in the organization that opens it.")] = "operator"
    rate: Annotated[PerSecond, about("Runs a second that it starts; of a public form one, unless given.")] | None = None
    burst: Annotated[Burst, about("Runs at once after a rest; of a public form 20, unless given.")] | None = None
    check: Annotated[CheckOfForm, about("What tells people from programs; not asked of those with the role.")] | None = None
    check_secret: Annotated[SecretText, about("The secret that the service of `check` knows the site by.")] | None = None
    embed_on: Annotated[
        list[Address], msgspec.Meta(max_length=20), about("Origins whose pages may show it in a frame: `https://www.example.com`.")
    ] = msgspec.field(default_factory=list)
    show: Annotated[Literal["nothing", "state", "result"], about("What is shown of the run afterwards.")] = "state"
    thanks: Annotated[Text, about("What is said once it is sent.")] = ""
    links_after: Annotated[Moment, about("Links that were made before count no more.")] | None = None
    enabled: Annotated[bool, about("Whether it can be opened.")] = True


FormEntry = Resource[Form]
