"""Writing TOML: the settings and facts in recipes, which `tomllib` reads back unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(table: Mapping[str, Any]) -> str:
    """Return a table as TOML.

    Args:
        table: Strings, numbers, truth values, lists of these and tables.

    Raises:
        TypeError: A value has another type.
    """
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}\n" for key, value in plain.items()]
    for key, value in table.items():
        if key not in plain:
            lines.append(f"\n[{_key(key)}]\n" if lines else f"[{_key(key)}]\n")
            lines += [f"{_key(name)} = {_value(cell)}\n" for name, cell in value.items()]
    return "".join(lines)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))  # of NumPy's too
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_value(cell)}' for key, cell in value.items())}}}"
    raise TypeError(f"TOML has no type for {value!r} ({type(value).__name__})")


def _text(text: str) -> str:
    """Quote a string; the escapes of JSON are those of TOML, which also requires one for the character 127."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
