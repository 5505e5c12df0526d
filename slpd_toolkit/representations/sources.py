"""Parsing of `--model [name=]source[#descriptor[:clusters]]`, before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.config.mil_eval import DESCRIPTORS, MOST_CLUSTERS
from slpd_toolkit.core.errors import Problems, UsageError
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.foreign.slide_vectors import PICKLES, is_vector_folder, refuse_pickle
from slpd_toolkit.mil.descriptors.descriptor import MEAN_TOKEN, ChosenDescriptor
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.models.slide_vit import SLIDE_VIT

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)", re.DOTALL)
_MEAN_TOKENS, _MEAN_OF_STAINS, _UNTRAINED = "mean-tokens", "mean-of-stains", "untrained"
TABLE_SUFFIXES = (".csv", ".npz", ".parquet", ".h5", ".h5ad")
_WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
_OF_SLIDE_VIT = ChosenDescriptor("mean-sd")
"""Descriptor of the regions in context that a slide ViT is used with, unless another is given."""


class Kind(Enum):
    """Kind of a source."""

    REGION_VIT = "region ViT"
    MEAN_TOKENS = "mean of the tissue tokens of a region"
    MEAN_OF_STAINS = "mean of the tissue tokens of a region, over all stains of the cache"
    UNTRAINED = "untrained region ViT"
    SLIDE_VIT = "slide ViT"
    TABLE = "table of slide vectors"


_KEYWORDS = {Kind.MEAN_TOKENS: _MEAN_TOKENS, Kind.MEAN_OF_STAINS: _MEAN_OF_STAINS, Kind.UNTRAINED: _UNTRAINED}


@dataclass(frozen=True)
class Source:
    """One `--model`."""

    name: str
    """Short unique name for tables and legends."""
    kind: Kind
    path: Path | None = None
    """The file, if there is one."""
    descriptor: ChosenDescriptor | None = None
    """How the regions of a slide are described; None for the regions themselves."""

    @property
    def needs_tokens(self) -> bool:
        """Whether the source needs a token cache."""
        return self.kind is not Kind.TABLE


def parse_sources(models: Sequence[str]) -> list[Source]:
    """Parse the values of `--model`.

    Args:
        models: `[name=]source[#descriptor[:clusters]]`; the default name is that of the run folder, or the file name
            without suffix, with `-descriptor` appended.

    Raises:
        UsageError: A path does not exist, a folder is not a run folder, a descriptor is unknown or is applied to slide
            vectors, or a name is used twice or contains invalid characters. All problems are reported together.
    """
    problems, sources = Problems(), []
    for model in models:
        with problems.gathered():
            sources.append(_parse(model))
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.found.append(
            UsageError(
                f"--model: the name {', '.join(twice)} is used more than once.",
                hint=f"Rename one: --model other-name={models[names.index(twice[0])].partition('=')[2] or '<source>'}.",
            )
        )
    problems.raise_any()
    return sources


def _parse(model: str) -> Source:
    match = None if Path(model).exists() else _NAMED.fullmatch(model)
    name, text = (match[1], match[2]) if match else ("", model)
    source, sign, described = text.rpartition("#")
    if Path(text).exists() or not sign:
        plain = _parse_source(name, text)
        return replace(plain, descriptor=_OF_SLIDE_VIT) if plain.kind is Kind.SLIDE_VIT else plain
    descriptor = parse_descriptor(described)
    found = _parse_source(name, source, added=f"-{descriptor.label.replace('+', '-')}")
    if not found.needs_tokens:
        raise UsageError(
            f"--model: {source} has one vector per slide, which #{described} cannot describe: it needs regions.",
            hint=f"Use {source}, or a run folder, a region_vit.pt or mean-tokens with #{described}.",
        )
    return replace(found, descriptor=descriptor)


def parse_descriptor(text: str) -> ChosenDescriptor:
    """Parse `descriptor` or `descriptor:clusters`, and `+mean-token` after either.

    Raises:
        UsageError: The descriptor is unknown, or the number of clusters is not a number from 1 up or is not used, or
            the mean token is to be appended to a set.
    """
    mean_token = text.endswith(MEAN_TOKEN)
    name, sign, clusters = text.removesuffix(MEAN_TOKEN).partition(":")
    DESCRIPTORS.require(name)
    descriptor = ChosenDescriptor(name).load()
    if mean_token and descriptor.is_set:
        raise UsageError(
            f"descriptor: got {text}, allowed: {MEAN_TOKEN} after descriptors that are one vector, such as mean.",
            hint=f"{name} is a set of vectors, which are compared by their cosine with those of other slides.",
        )
    default = descriptor.clusters
    if sign and not default:
        raise UsageError(f"descriptor: got {text}, allowed: {name}, which has no clusters.")
    if sign and not (clusters.isdecimal() and 1 <= int(clusters) <= MOST_CLUSTERS):
        raise UsageError(f"descriptor: got {text}, allowed: {name}:1 to {name}:{MOST_CLUSTERS}.")
    return ChosenDescriptor(name, int(clusters) if sign else default, mean_token)


def _parse_source(name: str, text: str, *, added: str = "") -> Source:
    for kind, keyword in _KEYWORDS.items():
        if text == keyword:
            return Source(name or f"{keyword}{added}", kind)
    path = Path(text)
    if path.suffix.lower() in PICKLES and path.is_file():
        refuse_pickle(path)
    if path.is_dir() and (path / SLIDE_VIT).is_file():
        path /= SLIDE_VIT
    if path.is_dir() and not (path / REGION_VIT).exists() and is_vector_folder(path):
        return Source(_checked(name or path.resolve().name + added, text), Kind.TABLE, path)
    if path.is_dir():
        path /= REGION_VIT
        if not path.is_file():
            raise UsageError(
                f"--model: {text} is not a run folder: it has no {REGION_VIT}.",
                hint="`slpd pretrain` writes this file at the end of the first epoch. A slide ViT's folder has "
                f"{SLIDE_VIT}.",
            )
    if not path.is_file():
        near = get_close_matches(text, tuple(_KEYWORDS.values()), n=1)
        raise UsageError(
            f"--model: {text} does not exist{f' (did you mean {near[0]}?)' if near else ''}.",
            hint="Allowed: a run folder, a weights file, a table of slide vectors, mean-tokens, mean-of-stains or "
            "untrained.",
        )
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES + _WEIGHT_SUFFIXES:
        raise UsageError(
            f"--model: {text} has an unknown file type.",
            hint=f"Weights: {', '.join(_WEIGHT_SUFFIXES)}; slide vectors: {', '.join(TABLE_SUFFIXES)}.",
        )
    name = name or (path.resolve().parent.name if path.name in {REGION_VIT, SLIDE_VIT} else path.stem) + added
    weights = Kind.SLIDE_VIT if path.name == SLIDE_VIT else Kind.REGION_VIT
    return Source(_checked(name, text), Kind.TABLE if suffix in TABLE_SUFFIXES else weights, path)


def _checked(name: str, text: str) -> str:
    """Return a name that can be used in tables and file names.

    Raises:
        UsageError: It cannot.
    """
    if not is_safe_name(name):
        raise UsageError(
            f"--model: {name!r} is not a valid name.",
            hint=f"Use letters, digits, '.', '_' and '-': --model my-name={text}.",
        )
    return name
