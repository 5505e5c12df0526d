"""Recipe keys of earlier versions, and their replacements."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class OldKey(NamedTuple):
    """A key that recipes and run folders of an earlier version may contain."""

    instead: str
    """What to do instead, as a sentence."""
    same: object = None
    """Value that is equivalent to the current behavior; a key with this value is ignored."""


OLD_KEYS: Mapping[str, Mapping[str, OldKey]] = {
    "PretrainConfig": {"optimiser": OldKey("AdamW is the only optimizer; remove the key.", same="adamw")},
}
"""Old keys by name of the configuration class. For a renamed key, `instead` names the new one."""


def old_key(config_class: type, key: str) -> OldKey | None:
    """Return the entry for a key of an earlier version, or None."""
    return OLD_KEYS.get(config_class.__name__, {}).get(key)


def without_old_keys(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop keys of an earlier version whose value is equivalent to the current behavior."""
    known = OLD_KEYS.get(config_class.__name__, {})
    return {key: value for key, value in values.items() if key not in known or value != known[key].same}
