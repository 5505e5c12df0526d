"""Terms of the objective: their names, weights and order, read from their files without importing torch."""

from dataclasses import dataclass

from slpd_toolkit.config.settings import Setting
from slpd_toolkit.core.registry import Registry

TERMS = Registry("slpd_toolkit.objectives.terms", "objective term")


@dataclass(frozen=True)
class TermInfo:
    """Properties of a term, declared by module constants of its file."""

    name: str
    """Name in metrics.csv; `<name>_weight` is the setting."""
    file: str
    """Name in the registry."""
    weight: float
    """Default weight, `WEIGHT`."""
    help: str
    """Description of the weight: the docstring under `WEIGHT`."""
    order: int
    """Position among the terms, `ORDER`."""
    centre: str
    """Name of the center of its targets' logits, `CENTRE`; terms with the same name share a center."""
    needs_prototypes: bool
    """Whether it requires slide prototypes, `NEEDS_PROTOTYPES`."""
    needs_masks: bool
    """Whether it requires masked tokens, `NEEDS_MASKS`."""
    whole_batch: bool
    """Whether it compares the regions of a batch, so that a step cannot be split into parts, `WHOLE_BATCH`."""

    @property
    def trains_alone(self) -> bool:
        """Whether training can start with only this term: its targets do not depend on slide prototypes."""
        return not (self.needs_prototypes or self.needs_masks or self.whole_batch)

    @property
    def setting(self) -> str:
        """Name of the setting that weights the term."""
        return f"{self.name}_weight"

    @property
    def flag(self) -> str:
        """Flag of the setting."""
        return f"--{self.setting.replace('_', '-')}"


def objective_terms() -> tuple[TermInfo, ...]:
    """Return all terms in order."""
    return tuple(sorted(map(_read, TERMS.names()), key=lambda term: (term.order, term.name)))


def term_names() -> tuple[str, ...]:
    """Return the names of all terms in order."""
    return tuple(term.name for term in objective_terms())


def weight_settings() -> tuple[Setting, ...]:
    """Return the setting of each term's weight."""
    return tuple(Setting(term.setting, float, term.weight, term.help, key=term.name) for term in objective_terms())


def _read(file: str) -> TermInfo:
    name = file.replace("-", "_")
    constants = TERMS.constants(file)
    weight, described = constants.get("WEIGHT", (0.0, ""))
    return TermInfo(
        name,
        file,
        float(weight),
        described or f"Weight of the term {name}. 0 disables it.",
        int(constants.get("ORDER", (99, ""))[0]),
        str(constants.get("CENTRE", (f"{name}_centre", ""))[0]),
        bool(constants.get("NEEDS_PROTOTYPES", (False, ""))[0]),
        bool(constants.get("NEEDS_MASKS", (False, ""))[0]),
        bool(constants.get("WHOLE_BATCH", (False, ""))[0]),
    )
