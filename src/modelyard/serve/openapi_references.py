"""References between the parts of the OpenAPI document."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import quote

Schema = dict[str, Any]


def ref(*parts: str) -> Schema:
    """A reference into `components`; the parts are a path of keys."""
    return {"$ref": "#/components/" + "/".join(pointer(part) for part in parts)}


@lru_cache(maxsize=4096)
def pointer(key: str) -> str:
    """One key of a JSON pointer, as a URI's fragment holds it."""
    return quote(key.replace("~", "~0").replace("/", "~1"), safe="~.-_")
