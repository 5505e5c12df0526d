"""Constructor arguments in the name of a timm model, such as `vit_large_patch16_224?init_values=1e-5`."""

from __future__ import annotations

import ast
from typing import Any
from urllib.parse import parse_qsl


def parse_query(query: str) -> dict[str, Any]:
    """Read what follows `?` in the name of a model; values are Python literals or text."""
    arguments: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return arguments
