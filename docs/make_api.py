"""Writes docs/api.md from the OpenAPI schema: `python docs/make_api.py`. A test fails when the file is out of date."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.main import create_app
from app.settings import Settings

TARGET = Path(__file__).with_name("api.md")
HEAD = """# HTTP API

Made from the OpenAPI schema (`/openapi.json`) by `python docs/make_api.py`; do not edit.

Every request carries `Authorization: Bearer <key>`. Routes under `/v1` also answer without the prefix. Errors have one
shape and stable codes: [errors.md](errors.md). Lists take `limit` and `after` and answer `has_more` and `last_id`.
"""


def schema() -> dict[str, Any]:
    """The application's OpenAPI schema, whatever the environment says."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), log_level="error")
    return create_app(settings).openapi()


def render(document: Mapping[str, Any]) -> str:
    """The whole page; routes grouped by tag, in the order they are declared."""
    components = document.get("components", {}).get("schemas", {})
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["service"])[0]
            by_tag.setdefault(tag, []).append("\n".join(_operation(method, path, operation, components)))
    parts = [HEAD]
    for tag, operations in by_tag.items():
        parts += [f"## {tag.capitalize()}\n", *operations]
    parts += ["## Objects inside others\n", *_objects("\n".join(parts), components)]
    return "\n".join(parts).rstrip() + "\n"


def _operation(method: str, path: str, operation: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield f"{operation.get('summary', '')}.\n"
    if text := operation.get("description"):
        yield f"{text.strip()}\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for one in parameters:
            required = " (required)" if one.get("required") else ""
            described = _cell(one.get("description") or one["schema"].get("description") or "")
            yield f"| `{one['name']}` | {one['in']}{required} | {_type(one['schema'], components)} | {described} |"
        yield ""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _body(f"Body `{media_type}`", content.get("schema", {}), components)
    for status, response in operation.get("responses", {}).items():
        if status.startswith("2"):
            for media_type, content in response.get("content", {}).items():
                yield from _body(f"Answer {status} `{media_type}`", content.get("schema", {}), components)
    others = [status for status in operation.get("responses", {}) if not status.startswith("2")]
    yield f"Otherwise: {', '.join(others)}.\n"


def _objects(page: str, components: Mapping[str, Any]) -> Iterator[str]:
    """The schemas the page names in a type, and those that they name in turn."""
    waiting = [name for name in components if f"`{name}`" in page]
    known = set(waiting)
    for name in waiting:
        text = "\n".join(_body(f"### `{name}`", components[name], components))
        yield text
        more = [other for other in components if f"`{other}`" in text and other not in known]
        known.update(more)
        waiting += more


def _body(title: str, given: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    found = _resolved(given, components)
    properties = found.get("properties")
    if not properties:
        text = _cell(found.get("description", ""))
        yield f"{title}: {_type(given, components)}{'. ' + text if text else ''}\n"
        return
    yield f"{title}:\n\n| field | type | default | |\n|---|---|---|---|"
    required = set(found.get("required", ()))
    for name, field in properties.items():
        default = (
            "required" if name in required else f"`{field['default']}`" if field.get("default") is not None else ""
        )
        yield f"| `{name}` | {_type(field, components)} | {default} | {_cell(field.get('description', ''))} |"
    yield ""


def _resolved(given: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = given.get("$ref")
    return given if reference is None else components[reference.rsplit("/", 1)[-1]]


def _type(given: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """A schema in a few words: `string`, `list of number or null`, `object SeriesIn {…}`."""
    if "$ref" in given:
        return f"`{given['$ref'].rsplit('/', 1)[-1]}`"
    for key in ("anyOf", "oneOf"):
        if key in given:
            return " or ".join(dict.fromkeys(_type(option, components) for option in given[key]))
    if "const" in given:
        return f"`{given['const']}`"
    if "enum" in given:
        return " or ".join(f"`{value}`" for value in given["enum"])
    match given.get("type"):
        case "array":
            return f"list of {_type(given.get('items', {}), components)}"
        case "object" if "properties" in given:
            return "object with " + ", ".join(f"`{name}`" for name in given["properties"])
        case "object" if isinstance(given.get("additionalProperties"), Mapping):
            return f"object of {_type(given['additionalProperties'], components)}"
        case None:
            return "any"
        case kind:
            return str(kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(render(schema()), encoding="utf-8")
