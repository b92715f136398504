"""A JSON Schema as the fields of an HTML form, and what was filled in as JSON. Pure; no script is needed for either.

Objects are groups of fields; what no field can hold, such as a list, is a text of JSON. Nothing is judged here: text that is not
what a field is for stays text, so that the schema's own check names the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from shared.errors import Invalid, Malformed, Problem
from shared.values import decode

# Objects within objects that have fields of their own.
DEEPEST = 4
# Characters from which on a text is given several lines.
LONG = 200
_INPUTS = {"date": "date", "email": "email", "uri": "url"}
_HINTS = {"date-time": "a date and time such as 2026-01-31T09:30:00Z"}
_PREFIX = "f"
_MISSING = object()


class FormField(msgspec.Struct, frozen=True, kw_only=True):
    """One field: `path` is the place of its value, `kind` `lines`, `number`, `flag`, `choice`, `json` or an input's type.

    Of a `choice` the schema has the values. Of an `option`, and of `options`, which may be several, somebody else has, with labels;
    `lacks` says why there are none. A `file` takes those of the types `accept`. `is_text`, `is_list`: the schema wants that.
    """

    path: tuple[str, ...]
    kind: str
    label: str
    help: str = ""
    is_required: bool = False
    is_null: bool = False
    default: Any = None
    choices: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    lacks: str = ""
    accept: str = ""
    is_text: bool = False
    is_list: bool = False

    @property
    def name(self) -> str:
        """Return the name of its input."""
        return ".".join((_PREFIX, *self.path))


def fields_of(schema: Mapping[str, Any]) -> list[FormField]:
    """Return the fields of an object's schema, in its order."""
    return list(_object(schema, (), schema, is_required=True))


def _object(schema: Mapping[str, Any], path: tuple[str, ...], root: Mapping[str, Any], *, is_required: bool) -> Iterator[FormField]:
    required = schema.get("required", ())
    for name, raw in schema.get("properties", {}).items():
        one, is_null = _plain(raw, root)
        place, needed = (*path, name), is_required and name in required
        if one.get("type") == "object" and "properties" in one and len(place) < DEEPEST and needed and not is_null:
            yield from _object(one, place, root, is_required=True)
            continue
        about = raw if isinstance(raw, dict) else {}
        kind, choices = _kind(one)
        yield FormField(
            path=place,
            kind=kind,
            label=str(about.get("title") or " / ".join(part.replace("_", " ") for part in place)),
            help=" ".join(filter(None, (str(about.get("description", "")), _HINTS.get(str(one.get("format")), "")))),
            is_required=needed and kind != "flag",
            is_null=is_null,
            default=about.get("default"),
            choices=choices,
            is_text=one.get("type") == "string",
            is_list=one.get("type") == "array",
        )


def _plain(raw: Any, root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Return a schema behind its reference and without null, and whether null is one of its values."""
    one: Any = raw
    is_null = False
    for _ in range(DEEPEST):
        if not isinstance(one, dict):
            return {}, is_null
        reference = one.get("$ref")
        if isinstance(reference, str):
            one = root.get("$defs", {}).get(reference.rpartition("/")[2], {})
        elif isinstance(one.get("anyOf"), list):
            others = [each for each in one["anyOf"] if not (isinstance(each, dict) and each.get("type") == "null")]
            is_null = is_null or len(others) < len(one["anyOf"])
            numbers = {each.get("type") for each in others if isinstance(each, dict)}
            # A decimal is a number or its text: text keeps all of its digits.
            one = others[0] if len(others) == 1 else {"type": "string"} if numbers == {"number", "string"} else {}
        else:
            break
    return (one if isinstance(one, dict) else {}), is_null


def _kind(one: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    if isinstance(one.get("enum"), list):
        return "choice", tuple(one["enum"])
    match one.get("type"):
        case "boolean":
            return "flag", ()
        case "integer" | "number":
            return "number", ()
        case "string":
            longest = one.get("maxLength")
            is_long = isinstance(longest, int) and longest > LONG
            return "lines" if is_long else _INPUTS.get(str(one.get("format")), "text"), ()
    return "json", ()


def filled(fields: list[FormField], given: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return what was filled in, and the fields that lack a value. Paths begin with `data`."""
    data: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in fields:
        text = given.get(field.name, "")
        if field.kind == "flag":
            placed(data, field.path, text != "")
        elif field.kind == "file":
            continue
        elif text.strip():
            placed(data, field.path, _value(field, text))
        elif field.is_required and field.is_null:
            placed(data, field.path, None)
        elif field.is_required:
            problems.append(Problem(".".join(("data", *field.path)), "is to be filled in"))
    return data, problems


def initial(fields: list[FormField]) -> dict[str, Any]:
    """Return what fields are filled in with where nobody has touched them."""
    found = [one for one in fields if one.default is not None]
    return filled(found, {one.name: _default(one) for one in found})[0]


def picked(fields: list[FormField], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return of values that a program gives those that fields ask for, but files."""
    data: dict[str, Any] = {}
    for field in fields:
        one: Any = values
        for part in field.path:
            one = one.get(part, _MISSING) if isinstance(one, dict) else _MISSING
        if one is not _MISSING and field.kind != "file":
            placed(data, field.path, one)
    return data


def _value(field: FormField, text: str) -> Any:
    if field.kind == "choice":
        return next((one for number, one in enumerate(field.choices) if text == str(number)), text)
    if field.kind == "option":
        return _chosen(field, text)
    if field.kind == "options":
        return [_chosen(field, one) for one in text.splitlines()]
    if field.kind not in {"number", "json"}:
        return text.replace("\r\n", "\n")
    value = _json(text.strip(), text)
    return value if field.kind == "json" or (isinstance(value, int | float) and not isinstance(value, bool)) else text


def _chosen(field: FormField, text: str) -> Any:
    """Return the choice of this JSON; the value itself where it is none of them now."""
    found = [one for one in field.choices if json_of(one) == text]
    if found:
        return found[0]
    return _json(text, text)


def _json(text: str, otherwise: str) -> Any:
    """Return the value of JSON; something else where it is none, or holds what may not enter."""
    try:
        return decode(text.encode())
    except (Malformed, Invalid, UnicodeEncodeError):
        return otherwise


def json_of(value: Any) -> str:
    """Return the JSON of a value, by which a choice is named: the order of somebody else's choices may be another one by then."""
    return msgspec.json.encode(value, order="deterministic").decode()


def placed(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Put a value into an object, within objects that are made where there are none."""
    for part in path[:-1]:
        data = data.setdefault(part, {})
    data[path[-1]] = value


def shown(fields: list[FormField], given: Mapping[str, str] | None, problems: Mapping[str, str]) -> str:
    """Return the HTML of the fields: with what was `given`, their defaults where that is None, and with `problems` by path."""
    return "".join(_shown(field, given, problems.get(".".join(("data", *field.path)))) for field in fields)


def _shown(field: FormField, given: Mapping[str, str] | None, problem: str | None) -> str:
    name = escape(field.name)
    about = [f"{name}-{part}" for part, there in (("help", field.help), ("wrong", problem)) if there]
    attributes = f' id="{name}" name="{name}"'
    attributes += f' aria-describedby="{" ".join(about)}"' if about else ""
    attributes += ' aria-invalid="true"' if problem else ""
    attributes += " required" if field.is_required else ""
    star = "" if field.is_required or field.kind == "flag" else ' <span class="of">(optional)</span>'
    label = f'<label for="{name}">{escape(field.label)}</label>{star}'
    # In elements and lines of their own: copied as text, or read aloud, they are no part of the label.
    words = f'\n<div class="of" id="{name}-help">{escape(field.help)}</div>' if field.help else ""
    words += f'\n<div class="of">{escape(field.lacks)}</div>' if field.lacks and not problem else ""
    wrong = f'\n<div class="bad" id="{name}-wrong">{escape(problem)}</div>' if problem else ""
    text = _default(field) if given is None else given.get(field.name, "")
    if field.kind == "flag":
        checked = " checked" if text else ""
        return f'<div class="field"><input type="checkbox" value="1"{attributes}{checked}> {label}{words}{wrong}</div>\n'
    return f'<div class="field">{label}{words}\n{_input(field, attributes, text)}{wrong}</div>\n'


def _input(field: FormField, attributes: str, text: str) -> str:
    if field.kind == "choice":
        options = "".join(
            f'<option value="{number}"{" selected" if text == str(number) else ""}>{escape(_text(one))}</option>'
            for number, one in enumerate(field.choices)
        )
        return f"<select{attributes}><option></option>{options}</select>"
    if field.kind in {"option", "options"}:
        chosen = set(text.splitlines())
        options = "".join(
            f'<option value="{escape(value)}"{" selected" if value in chosen else ""}>{escape(label)}</option>'
            for value, label in zip(map(json_of, field.choices), field.labels, strict=True)
        )
        return (
            f"<select{attributes} multiple>{options}</select>"
            if field.kind == "options"
            else (f"<select{attributes}><option></option>{options}</select>")
        )
    if field.kind == "file":
        accept = f' accept="{escape(field.accept)}"' if field.accept else ""
        return f'<input type="file"{accept}{attributes}>'
    if field.kind in {"lines", "json"}:
        return f'<textarea rows="4"{attributes}>\n{escape(text)}</textarea>'
    # Not the type number: a browser sends nothing in the place of what is none, and the person would have to begin anew.
    how = 'type="text" inputmode="decimal"' if field.kind == "number" else f'type="{field.kind}"'
    return f'<input {how} autocomplete="off" value="{escape(text)}"{attributes}>'


def _default(field: FormField) -> str:
    if field.kind == "flag":
        return "1" if field.default is True else ""
    if field.default is None:
        return ""
    if field.kind in {"option", "options"}:
        several = field.default if isinstance(field.default, list) else [field.default]
        return "\n".join(map(json_of, several))
    if field.kind == "choice":
        return next((str(number) for number, one in enumerate(field.choices) if one == field.default), "")
    return _text(field.default)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def complaints(fields: list[FormField], problems: Mapping[str, str]) -> str:
    """Return the HTML of what does not fit, by path: with links to the fields, for who cannot see where they are."""
    known = {".".join(("data", *one.path)): one for one in fields}
    wrong = "".join(
        f'<li><a href="#{escape(known[path].name)}">{escape(known[path].label)}</a>: {escape(message)}</li>'
        if path in known
        else f"<li>{escape(message)}</li>"
        for path, message in problems.items()
    )
    return f'<div role="alert" class="bad">This was not sent yet:<ul>{wrong}</ul></div>' if problems else ""


def by_field(fields: list[FormField], problems: Sequence[Problem]) -> dict[str, str]:
    """Return complaints about an `input` by the path of the field that each is about, and others by their own."""
    found: dict[str, str] = {}
    for one in problems:
        path = f"data{one.path.removeprefix('input')}" if one.path.startswith("input") else one.path
        about = [".".join(("data", *field.path)) for field in fields]
        of = next((name for name in about if path == name or path.startswith((f"{name}.", f"{name}["))), None)
        message = one.message if of is not None or not path.startswith("data.") else f"{path.removeprefix('data.')}: {one.message}"
        found.setdefault(of or path, message)
    return found
