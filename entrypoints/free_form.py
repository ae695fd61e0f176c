"""The schema of what is passed on unread: any JSON but what chatport refuses at every level."""

from collections.abc import Mapping
from typing import Any

from .relayed_request import FORBIDDEN, NAMES_OF_A_SCHEMA
from .strict_json import MAX_DEPTH
from .wire import STORABLE_PATTERN

Schema = dict[str, Any]
VALUE = {"$ref": "#/components/schemas/Value"}
NAMED_SCHEMAS = {"$ref": "#/components/schemas/NamedSchemas"}
TEXT: Schema = {"type": "string", "pattern": STORABLE_PATTERN}
OTHERS: list[Schema] = [
    {"type": ["null", "boolean", "number"]},
    TEXT,
    {"type": "array", "items": VALUE},
]
"""All JSON but objects."""

MEMBERS: Schema = {
    "propertyNames": {**TEXT, "not": {"enum": sorted(FORBIDDEN)}},
    "additionalProperties": VALUE,
}


def free_form() -> dict[str, Schema]:
    """Return the schemas for what is passed on."""
    names = ", ".join(f"`{name}`" for name in sorted(FORBIDDEN))
    return {
        "Value": {
            "description": f"Any JSON, up to {MAX_DEPTH} levels deep, without NUL or integers"
            f" over 64 bits. Nowhere may there be a member named {names}.",
            "anyOf": [*OTHERS, {"type": "object", **opened({})}],
        },
        "NamedSchemas": {
            "description": "In JSON Schema, which the parameters of tools are written in, the"
            " members of `properties` and `$defs` have names of your own; so any may be there.",
            "anyOf": [
                *OTHERS,
                {"type": "object", "propertyNames": TEXT, "additionalProperties": VALUE},
            ],
        },
    }


def opened(properties: Mapping[str, Schema]) -> Schema:
    """Return what an object's schema says of its members, beyond those that are described."""
    return {
        **MEMBERS,
        "properties": {**properties, **dict.fromkeys(NAMES_OF_A_SCHEMA, NAMED_SCHEMAS)},
    }
