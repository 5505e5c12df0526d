"""One frozen dataclass a stage; the docstring under each attribute is its `--help` and its line in the reference."""

import ast
import inspect
import os
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from slpd_toolkit.errors import UsageError

Config = TypeVar("Config")

Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Stage one: slides to a token cache, with a frozen patch encoder."""

    manifest: Path
    """Cohort CSV with `slide_id` and `slide_path` (see manifests/README.md)."""

    out: Path
    """Folder of the token cache: one HDF5 file a slide, failures.csv, qc/."""

    slides_root: Path | None = None
    """Folder that relative slide paths start from. Default: the manifest's folder."""

    encoder: str = "random"
    """Frozen patch encoder: `hipt`, `timm:<model>`, `random` (untrained ViT-Tiny) or `random:vit_small`."""

    weights: Path | None = None
    """Weights file of the encoder (.pth, .pt, .safetensors). Loaded strictly and without running code."""

    allow_download: bool = False
    """Let `timm:` encoders fetch weights from their hub. Off: nothing touches the network."""

    mpp: float = 0.5
    """Target resolution in um/px (0.5 is about 20x)."""

    region_px: int = 4096
    """Side of a region in px at the target resolution; a multiple of the patch size."""

    patch_px: int = 256
    """Side of a patch in px at the target resolution."""

    min_tissue: float = 0.1
    """Keep regions whose tissue fraction is at least this (0-1). A slide's best region is kept in any case."""

    max_upsample: float = 1.6
    """Refuse slides that would have to be enlarged by more than this factor to reach the target resolution."""

    batch_size: int = 0
    """Patches a forward pass. 0: 256 on a GPU, 32 on a CPU."""

    precision: Precision = "auto"
    """Arithmetic of the encoder. `auto`: bf16 where the device computes it natively, else fp32."""

    device: str = "auto"
    """`auto` (GPU when there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""

    workers: int = 0
    """Threads that read and decode slides. 0: one a core, at most 16."""

    seed: int = 0
    """Seed of the `random` encoders' weights."""

    shard: str = "1/1"
    """Which part of the manifest to do, `i/n` with 1 <= i <= n: for array jobs."""

    overwrite: bool = False
    """Redo slides that are in the cache already."""

    qc: bool = True
    """Write qc/<slide_id>.jpg (tissue outline, kept regions) and qc/index.html."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        require(0 < self.mpp < float("inf"), "--mpp", self.mpp, "a positive number of um/px", "0.5 is the usual 20x.")
        require(self.patch_px >= 16, "--patch-px", self.patch_px, "at least 16")
        require(
            self.region_px >= self.patch_px and self.region_px % self.patch_px == 0,
            "--region-px",
            self.region_px,
            f"a multiple of --patch-px ({self.patch_px})",
            f"Use {max(1, round(self.region_px / self.patch_px)) * self.patch_px}.",
        )
        require(0 <= self.min_tissue <= 1, "--min-tissue", self.min_tissue, "a fraction from 0 to 1")
        require(1 <= self.max_upsample < float("inf"), "--max-upsample", self.max_upsample, "a factor of at least 1")
        require(self.batch_size >= 0, "--batch-size", self.batch_size, "0 (choose) or more")
        require(self.workers >= 0, "--workers", self.workers, "0 (choose) or more")
        require(
            self.weights is None or not self.encoder.startswith("random"),
            "--weights",
            self.weights,
            "no weights with the untrained `random` encoders",
            "Use --encoder hipt (or timm:<model>) with a weights file.",
        )
        self.shard_of_n  # noqa: B018 - parse it now, so that a typo stops before any work

    @property
    def grid(self) -> int:
        """Patches along one side of a region."""
        return self.region_px // self.patch_px

    @property
    def shard_of_n(self) -> tuple[int, int]:
        """`shard` as (i, n), 1-based."""
        head, _, tail = self.shard.partition("/")
        valid = head.isdecimal() and tail.isdecimal() and 1 <= int(head) <= int(tail)
        require(valid, "--shard", self.shard, "i/n with 1 <= i <= n", "The third of eight jobs is 3/8.")
        return int(head), int(tail)


def require(condition: bool, flag: str, got: object, allowed: str, hint: str = "") -> None:  # noqa: FBT001
    """Raise a `UsageError` that names the flag, the value and what is allowed, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{flag}: got {got}, allowed: {allowed}.", hint=hint)


@cache
def option_help(config_class: type) -> dict[str, str]:
    """Read the docstring under each attribute of a dataclass, as one line: attribute -> help."""
    body = ast.parse(inspect.getsource(config_class).lstrip()).body[0]
    assert isinstance(body, ast.ClassDef)
    documented = {}
    for attribute, comment in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(comment, ast.Expr)
        ):
            documented[attribute.target.id] = " ".join(str(ast.literal_eval(comment.value)).split())
    return documented


def build(config_class: type[Config], flags: Mapping[str, object], recipe: Path | None) -> Config:
    """Make a stage's configuration with the precedence flag > recipe > default.

    Args:
        config_class: One of the dataclasses of this module.
        flags: Values given on the command line; None means not given.
        recipe: TOML file with the attribute names of `config_class` as keys.

    Raises:
        UsageError: An unknown key, a value of the wrong type, a value that is not allowed, or one that is missing.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    values = {**(read_recipe(config_class, recipe) if recipe else {}), **given}
    required = [item.name for item in fields(config_class) if item.default is MISSING]  # type: ignore[arg-type]
    missing = [f"--{name.replace('_', '-')}" for name in required if name not in values]
    if missing:
        raise UsageError(f"Missing: {', '.join(missing)}.", hint="Give them as flags or in the recipe.")
    return config_class(**values)


def read_recipe(config_class: type, recipe: Path) -> dict[str, Any]:
    """Read a recipe's values, typed as the attributes of `config_class`.

    Raises:
        UsageError: The file is missing or not TOML, or a key or a value's type is not one of the class; all at once.
    """
    path = find_recipe(recipe)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Recipe {recipe}: cannot be read ({error}).", hint="It must be a TOML file.") from error
    types_by_name = get_type_hints(config_class)
    problems, values = [], {}
    for key, value in table.items():
        if key not in types_by_name:
            near = get_close_matches(key, types_by_name, n=1)
            problems.append(f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
            continue
        try:
            values[key] = _typed(value, types_by_name[key])
        except ValueError as error:
            problems.append(f"`{key}` = {value!r}: {error}")
    if problems:
        raise UsageError(f"Recipe {recipe}: {'; '.join(problems)}.", hint=f"Known keys: {', '.join(types_by_name)}.")
    return values


def find_recipe(recipe: Path) -> Path:
    """Find a recipe: the path itself, else one that is shipped with the package (`pretrain/nsclc.toml`).

    Raises:
        UsageError: There is none; the message lists the shipped ones.
    """
    if recipe.is_file():
        return recipe
    shipped = shipped_folder("stages")
    name = recipe.relative_to("stages") if recipe.parts[:1] == ("stages",) else recipe
    if (shipped / name).is_file():
        return shipped / name
    known = ", ".join(sorted(f"stages/{path.relative_to(shipped).as_posix()}" for path in shipped.rglob("*.toml")))
    raise UsageError(f"Recipe {recipe}: no such file.", hint=f"Shipped recipes: {known}.")


def shipped_folder(name: str) -> Path:
    """Find `stages/` or `manifests/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return package / name if (package / name).is_dir() else package.parent / name


def as_recipe(config: Any) -> dict[str, Any]:
    """Give every resolved value of a configuration as plain TOML / JSON types; None values are left out."""
    return {
        key: os.fspath(value) if isinstance(value, Path) else value
        for key, value in asdict(config).items()
        if value is not None
    }


def _typed(value: object, wanted: Any) -> Any:
    """Check and convert one TOML value; raises ValueError with what is allowed."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in {Union, types.UnionType}:
        return _typed(value, next(option for option in arguments if option is not type(None)))
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"allowed: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("allowed: a list")
        return tuple(_typed(item, arguments[0]) for item in value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ValueError(f"allowed: {wanted.__name__}")
    return value
