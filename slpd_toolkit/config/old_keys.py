"""Recipe keys of earlier versions, and their replacements."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class OldKey(NamedTuple):
    """A key that recipes and run folders of an earlier version may contain."""

    instead: str
    """What to do instead, as a sentence."""
    same: object = None
    """Value that is equivalent to the current behavior; a key with this value is ignored."""
    harmless: bool = False
    """Whether every value is ignored; the command line accepts the option too, with a warning."""


OLD_KEYS: Mapping[str, Mapping[str, OldKey]] = {
    "MilEvalConfig": {"bootstrap": OldKey("Intervals no longer use a bootstrap; remove it.", harmless=True)},
    "PretrainConfig": {"optimiser": OldKey("AdamW is the only optimizer; remove the key.", same="adamw")},
}
"""Old keys by name of the configuration class. For a renamed key, `instead` names the new one."""


def old_key(config_class: type, key: str) -> OldKey | None:
    """Return the entry for a key of an earlier version, or None."""
    return OLD_KEYS.get(config_class.__name__, {}).get(key)


def without_old_keys(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop keys of an earlier version whose value is equivalent to the current behavior."""
    known = OLD_KEYS.get(config_class.__name__, {})
    return {
        key: value
        for key, value in values.items()
        if key not in known or not (known[key].harmless or value == known[key].same)
    }


def harmless_keys(config_class: type) -> Mapping[str, OldKey]:
    """Return the old keys whose value never mattered to what is computed now."""
    return {key: old for key, old in OLD_KEYS.get(config_class.__name__, {}).items() if old.harmless}
