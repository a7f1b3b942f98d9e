"""Whether a JSON Schema still fits those who know an earlier version of it.

It knows what the schemas of this project use: types, enumerations, bounds, patterns, members and
alternatives.
"""

from collections.abc import Iterator
from typing import Any, Final

Schema = dict[str, Any]

UPPER: Final = ("maximum", "maxLength", "maxItems", "maxProperties")
LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")


def breaks_writers(old: Schema, new: Schema) -> list[str]:
    """Return why what is valid by `old` may not be valid by `new`."""
    return [*_narrowed(old, new, "", open_=False, of=(old, new))]


def breaks_readers(old: Schema, new: Schema) -> list[str]:
    """Return why what is valid by `new` may not be valid by `old`, apart from further members."""
    return [*_narrowed(new, old, "", open_=True, of=(new, old))]


def _narrowed(
    wide: Schema, narrow: Schema, path: str, *, open_: bool, of: tuple[Schema, Schema]
) -> Iterator[str]:
    wide, narrow = _resolved(wide, of[0]), _resolved(narrow, of[1])
    if "anyOf" in wide or "anyOf" in narrow:
        yield from _alternatives(wide, narrow, path, open_=open_, of=of)
        return
    yield from _values(wide, narrow, path)
    for name in UPPER:
        if name in narrow and wide.get(name, float("inf")) > narrow[name]:
            yield f"{path}: {name}"
    for name in LOWER:
        if name in narrow and wide.get(name, float("-inf")) < narrow[name]:
            yield f"{path}: {name}"
    for name in ("pattern", "format"):
        if name in narrow and wide.get(name) != narrow[name]:
            yield f"{path}: {name}"
    yield from _members(wide, narrow, path, open_=open_, of=of)
    if "items" in narrow:
        yield from _narrowed(
            wide.get("items", {}), narrow["items"], f"{path}[]", open_=open_, of=of
        )
    for number, (each, other) in enumerate(
        zip(wide.get("allOf", []), narrow.get("allOf", []), strict=False)
    ):
        yield from _narrowed(
            each.get("then", {}), other.get("then", {}), f"{path}#{number}", open_=open_, of=of
        )


def _values(wide: Schema, narrow: Schema, path: str) -> Iterator[str]:
    if "type" in narrow and wide.get("type") != narrow["type"]:
        yield f"{path}: type"
    allowed = narrow.get("enum", [narrow["const"]] if "const" in narrow else None)
    if allowed is None:
        return
    values = wide.get("enum", [wide["const"]] if "const" in wide else None)
    if values is None:
        yield f"{path}: any value"
        return
    yield from (f"{path}: {value!r}" for value in values if value not in allowed)


def _members(
    wide: Schema, narrow: Schema, path: str, *, open_: bool, of: tuple[Schema, Schema]
) -> Iterator[str]:
    inside = f"{path}." if path else ""
    for name in narrow.get("required", []):
        if name not in wide.get("required", []):
            yield f"{inside}{name} is no longer there" if open_ else f"{inside}{name} is required"
    others = narrow.get("properties", {})
    for name, member in wide.get("properties", {}).items():
        if name in others:
            yield from _narrowed(member, others[name], f"{inside}{name}", open_=open_, of=of)
        elif narrow.get("additionalProperties") is False and not open_:
            yield f"{inside}{name} is no longer allowed"


def _alternatives(
    wide: Schema, narrow: Schema, path: str, *, open_: bool, of: tuple[Schema, Schema]
) -> Iterator[str]:
    """Each alternative of the wide schema must fit one of the narrow schema."""
    choices = narrow.get("anyOf", [narrow])
    for each in wide.get("anyOf", [wide]):
        problems = [[*_narrowed(each, choice, path, open_=open_, of=of)] for choice in choices]
        yield from min(problems, key=len)


def _resolved(schema: Schema, document: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = document["$defs"][schema["$ref"].rpartition("/")[2]]
    return found
