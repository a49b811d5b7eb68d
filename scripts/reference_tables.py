"""Markdown tables from JSON Schema; what they say depends on no library's version."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]


def prose(docstring: str) -> str:
    """Turn a docstring into Markdown, ending in a blank line."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text)
    text = re.sub(r"docs/((?:[\w-]+/)*([\w-]+)\.md)", r"[\2](../\1)", text)
    return text.replace("``", "`").replace("::\n", ":\n").strip() + "\n"


def table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Lay out a table of two columns, ending in a blank line."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {_cell(left)} | {_cell(right)} |" for left, right in rows]
    return "\n".join(lines) + "\n"


def fields_table(schema: Schema, defs: Schema | None = None) -> str:
    """Describe the properties of a model: key, type, default, meaning.

    ``defs`` are the models that its references lead to (default: its own).
    """
    defs, required = defs or schema.get("$defs", {}), schema.get("required", [])
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, each in schema["properties"].items():
        default = "" if key in required else _default(each)
        cells = (f"`{key}`", kind(each, defs), default, each.get("description", ""))
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def kind(each: Schema, defs: Schema | None = None) -> str:
    """Say in words what a value of a schema is."""
    for several in ("anyOf", "oneOf", "allOf"):
        if several in each:
            return " or ".join(dict.fromkeys(kind(one, defs) for one in each[several]))
    if "$ref" in each:
        return _named(each["$ref"].rpartition("/")[2], defs or {})
    if "const" in each:
        return f"`{json.dumps(each['const'])}`"
    if "enum" in each:
        return ", ".join(f"`{value}`" for value in each["enum"])
    if each.get("type") == "array":
        return _array(each, defs)
    if each.get("type") == "object":
        # Where keys are names, pydantic gives their pattern.
        values = [*each.get("patternProperties", {}).values(), each.get("additionalProperties")]
        return f"mapping to {kind(values[0] or {}, defs)}"
    return _scalar(each)


def _named(name: str, defs: Schema) -> str:
    found = defs.get(name, {})
    # JsonValue has no properties and may refer to itself.
    return f"[{name}](#{name.lower()})" if found.get("properties") else "any JSON value"


def _array(each: Schema, defs: Schema | None) -> str:
    if "prefixItems" in each:
        return "[" + ", ".join(kind(one, defs) for one in each["prefixItems"]) + "]"
    return f"list of {kind(each.get('items') or {}, defs)}"


def _scalar(each: Schema) -> str:
    if each.get("pattern") == "^[0-9a-f]{64}$":
        return "SHA-256 in hex"
    words = {"integer": "integer", "number": "number", "string": "text", "null": "`null`"}
    word = {**words, "boolean": "true or false"}.get(each.get("type", ""), "any JSON value")
    bounds = [
        f"{sign} {_plain(each[key]):,}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="))
        if key in each and each[key] != 1_000_000
    ]
    return " ".join((word, *bounds))


def _plain(number: float) -> float:
    # Versions of pydantic differ in whether a bound of 1 is written 1 or 1.0.
    return int(number) if number == int(number) else number


def _default(each: Schema) -> str:
    # Of a whole model, its own table tells the defaults.
    if each.get("default") is None or isinstance(each["default"], dict):
        return ""
    return f"`{json.dumps(each['default'])}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")
