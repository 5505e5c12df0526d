"""A cohort with a planted hierarchy and known truth: token caches in the real format, a manifest, and the truth.

    python -m benchmarks.planted.cohorts --out planted/ --slides 96 --grid 8 --dim 64 --seed 0

**Kinds and architectures.** Each patch has one of a few kinds (tumor, stroma, ...), which are random centers in token
space. A region mixes two kinds in equal parts. Its architecture determines which two, and how they are arranged:
`scales` is the size of the nests that they form, 0 for a salt-and-pepper mixture. Each region is a new random draw of
its architecture. Kinds are paired so that every pairing uses all kinds equally: with kinds 0 to 3, {01, 23} and
{02, 13} are two pairings. Architectures of the same pair therefore differ only in arrangement (the token histograms of
their regions are equal), and pairings differ in which kinds share a region, but not in the token histogram of a slide
that contains both pairs equally.

**Slides and targets.** Each patient has a random tendency towards pairings and scales; each slide has 3 to 6
architectures. The proportions of pairings determine the class, those of scales the grade, and their interaction the
survival time. None of them affects the mean token of a slide, beyond chance.

**Nuisance.** White noise on each token; and, in a few directions (stain, focus, thickness), a shift per site, slide and
region, and a smooth drift within each region. What is constant within a region distinguishes it from all others, but is
unrelated to its architecture. On request: waves over the whole slide, a gain of each feature per slide, noise with
heavy tails, and a class that depends on how common the first kind is, which a slide's mean token reveals.

Slides are drawn one at a time, each with a separate seed, so that memory holds one slide.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from scipy.ndimage import gaussian_filter

from slpd_toolkit.core.files import atomic_path, write_csv
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

CACHE, MANIFEST, TRUTH = "cache", "manifest.csv", "truth.npz"
TCGA_SHAPE = 4.0
"""Shape of the gamma distribution of regions per slide, from TCGA-BRCA (180 slides, 54 +- 27)."""
_PATCH_PX = 256
_SMALLEST, _LARGEST = 3, 6
_COLUMNS = ("slide_id", "slide_path", "patient_id", "site", "label", "grade", "time", "event")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Size and difficulty of a cohort. Strengths are standard deviations; that of the centers of kinds is 1."""

    slides: int = 96
    """Number of slides; patients have one to three."""
    regions: float = 24.0
    """Mean number of regions per slide."""
    sizes: Path | None = None
    """Array (.npy) of regions per slide to draw from, rescaled to the mean. None: gamma-distributed, as TCGA-BRCA."""
    grid: int = 8
    """Number of tokens along the side of a region."""
    dim: int = 64
    """Number of features of a token."""
    kinds: int = 4
    """Number of kinds of patches; even."""
    pairings: int = 2
    """Number of pairings of the kinds; with 1, architectures differ only in arrangement."""
    scales: tuple[float, ...] = (0.0, 1.5)
    """Sizes of nests, in tokens; with a single one, architectures differ only in which kinds share a region."""
    noise: float = 1.0
    """White noise on every token."""
    shift_rank: int = 8
    """Number of directions of shifts and drift."""
    site_shift: float = 0.5
    """Shift shared by the slides of a site."""
    slide_shift: float = 0.5
    """Shift of a slide."""
    region_shift: float = 0.5
    """Shift of a region."""
    drift: float = 0.5
    """Smooth change within a region."""
    drift_scale: float = 2.0
    """Length scale of the drift, in tokens."""
    wave: float = 0.0
    """Smooth change over the whole slide, in the directions of the shifts."""
    wave_length: float = 24.0
    """Wavelength of that change, in tokens: several regions."""
    gain: float = 0.0
    """Logarithm of the factor by which a slide scales each feature."""
    tails: float = 0.0
    """Degrees of freedom of the white noise (Student's t, scaled to the same variance; above 2). 0: Gaussian."""
    sites: int = 4
    """Number of sites."""
    composition: bool = False
    """Whether the class is determined by the fraction of regions that contain kind 0, instead of by pairings, so that
    the token histograms of the classes differ."""
    tendency: float = 1.5
    """Variation of architectures between patients."""
    label_noise: float = 0.25
    """Noise on the scores that determine class, grade and survival, in their standard deviations."""
    seed: int = 0
    """Random seed of everything."""

    def __post_init__(self) -> None:
        if self.kinds % 2 or not 1 <= self.pairings < self.kinds or not self.scales:
            raise ValueError(f"got {self.kinds} kinds, {self.pairings} pairings, {len(self.scales)} scales")

    def rng(self, *counters: int) -> np.random.Generator:
        """Return an independent random generator for these counters."""
        return np.random.default_rng([self.seed, *counters])


@dataclass(frozen=True, eq=False)
class Architectures:
    """The A architectures of a cohort."""

    kinds: IntArray
    """(A, 2) kinds that share a region."""
    pairing: IntArray
    """(A,)"""
    scale: IntArray
    """(A,) index of the scale."""

    composition: bool = False
    """Whether the class depends on kind 0, not on pairings."""

    @classmethod
    def of(cls, planted: Planted) -> Self:
        rows = [
            (pair, pairing, scale)
            for pairing in range(planted.pairings)
            for pair in pair_off(planted.kinds, pairing)
            for scale in range(len(planted.scales))
        ]
        kinds, pairing, scale = zip(*rows, strict=True)
        return cls(np.array(kinds), np.array(pairing), np.array(scale), planted.composition)

    def contrasts(self) -> FloatArray:
        """(3, A) weights of the scores for class (by pairing), grade (by scale) and survival (by both)."""
        pairing, scale = (
            np.linspace(-1, 1, 1 + codes.max())[codes] if codes.max() else np.zeros(len(codes))
            for codes in (self.pairing, self.scale)
        )
        wanted = np.stack([pairing, scale, pairing * scale])
        one = pairing if pairing.any() else scale
        wanted = np.where(wanted.any(axis=1, keepdims=True), wanted, one)
        if self.composition:
            wanted[0] = np.where((self.kinds == 0).any(axis=1), 1.0, -1.0)
        return wanted


def pair_off(kinds: int, round_: int) -> list[tuple[int, int]]:
    """Return one round of a round-robin tournament: each kind once per round, each pair once in kinds - 1 rounds."""
    wheel = [(round_ + offset) % (kinds - 1) for offset in range(kinds - 1)]
    inner = [(wheel[offset], wheel[-offset]) for offset in range(1, kinds // 2)]
    return [(wheel[0], kinds - 1), *inner]


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of the S slides and R regions of a cohort, slide by slide in the order of their IDs."""

    slide_ids: NDArray[np.str_]
    """(S,)"""
    patients: NDArray[np.str_]
    """(S,)"""
    sites: IntArray
    """(S,)"""
    slide_of_region: IntArray
    """(R,)"""
    architecture: IntArray
    """(R,) architecture of each region."""
    kinds: IntArray
    """(A, 2) kinds of each architecture."""
    pairing: IntArray
    """(A,)"""
    scale: IntArray
    """(A,)"""
    label: NDArray[np.str_]
    """(S,) class."""
    grade: IntArray
    """(S,) 1 to 3."""
    time: FloatArray
    """(S,) follow-up time, months."""
    event: IntArray
    """(S,) 1 if the event was observed, else 0."""

    def mixture(self) -> FloatArray:
        """Return the fraction of each architecture in each slide, (S, A)."""
        counts = np.zeros((len(self.slide_ids), len(self.pairing)))
        np.add.at(counts, (self.slide_of_region, self.architecture), 1)
        shares: FloatArray = counts / counts.sum(axis=1, keepdims=True)
        return shares

    @classmethod
    def read(cls, folder: Path) -> Self:
        with np.load(folder / TRUTH) as stored:
            return cls(**{item.name: stored[item.name] for item in fields(cls)})


def plan(planted: Planted) -> Truth:
    """Draw patients, slides, regions and targets, but no tokens."""
    rng, architectures = planted.rng(0), Architectures.of(planted)
    contrasts = architectures.contrasts()
    counts = _slides_of_patients(planted.slides, rng)
    patient = np.repeat(np.arange(len(counts)), counts)
    towards = planted.tendency * rng.standard_normal((len(counts), 3)) @ contrasts
    sizes = _sizes(planted, rng)
    regions = [_architectures_of(logits, size, rng) for logits, size in zip(towards[patient], sizes, strict=True)]
    slide_of_region, architecture = np.repeat(np.arange(planted.slides), sizes), np.concatenate(regions)
    shares = np.zeros((len(counts), len(architectures.pairing)))
    np.add.at(shares, (patient[slide_of_region], architecture), 1)
    scores = _standardised(shares / shares.sum(axis=1, keepdims=True) @ contrasts.T)
    scores = _standardised(scores + planted.label_noise * rng.standard_normal(scores.shape))
    died = 30 * np.exp(-1.5 * scores[:, 2]) * rng.exponential(size=len(counts)) + 0.1
    censored = rng.uniform(6, 120, len(counts))
    thirds = np.quantile(scores[:, 1], (1 / 3, 2 / 3))
    return Truth(
        slide_ids=np.array([f"slide{number:05}" for number in range(planted.slides)]),
        patients=np.array([f"patient{number:05}" for number in patient]),
        sites=rng.integers(planted.sites, size=len(counts))[patient],
        slide_of_region=slide_of_region,
        architecture=architecture,
        kinds=architectures.kinds,
        pairing=architectures.pairing,
        scale=architectures.scale,
        label=np.where(scores[:, 0] > np.median(scores[:, 0]), "b", "a")[patient],
        grade=1 + np.searchsorted(thirds, scores[:, 1])[patient],
        time=np.minimum(died, censored).round(2)[patient],
        event=(died <= censored).astype(np.int64)[patient],
    )


def draw_kinds(planted: Planted, architectures: IntArray, known: Architectures, rng: np.random.Generator) -> IntArray:
    """Draw the kinds of all tokens of some regions, (R, grid, grid): half of each kind (in odd grids, one differs by
    1).

    A region is divided at the median of a random field; smoothing the field over a scale forms nests of that size.
    """
    grid = planted.grid
    field = rng.standard_normal((len(architectures), grid, grid))
    for index, scale in enumerate(planted.scales):
        chosen = known.scale[architectures] == index
        if scale > 0 and chosen.any():
            field[chosen] = gaussian_filter(field[chosen], (0, scale, scale), mode="wrap")
    ranks = field.reshape(len(field), -1).argsort(axis=1).argsort(axis=1)
    which = (ranks >= (grid * grid) // 2).astype(np.int64)
    return np.take_along_axis(known.kinds[architectures], which, axis=1).reshape(field.shape)


class DrawsTokens(Protocol):
    """What fills the regions of a cohort with tokens."""

    def draw(self, slide: int, site: int, architectures: IntArray) -> NDArray[np.float32]:
        """Draw the tokens of a slide, (R, grid, grid, D), the same for the same slide."""


class TokenModel:
    """Distribution of tokens, the same for all slides of a cohort."""

    def __init__(self, planted: Planted) -> None:
        self.planted, rng = planted, planted.rng(1)
        self.known = Architectures.of(planted)
        self.centres = rng.standard_normal((planted.kinds, planted.dim)).astype(np.float32)
        self.directions = rng.standard_normal((planted.shift_rank, planted.dim)).astype(np.float32)
        self.directions *= np.sqrt(planted.dim / planted.shift_rank) / np.linalg.norm(self.directions, axis=1)[:, None]
        self.site_shifts = planted.site_shift * rng.standard_normal((planted.sites, planted.shift_rank))

    def draw(self, slide: int, site: int, architectures: IntArray) -> NDArray[np.float32]:
        """Draw the tokens of a slide, (R, grid, grid, D), from the seed of the cohort and the number of the slide."""
        planted, rng = self.planted, self.planted.rng(2, slide)
        regions, grid, rank = len(architectures), planted.grid, planted.shift_rank
        tokens = self.centres[draw_kinds(planted, architectures, self.known, rng)]
        shift = self.site_shifts[site] + planted.slide_shift * rng.standard_normal(rank)
        shift = shift + planted.region_shift * rng.standard_normal((regions, 1, 1, rank))
        smooth = (0, planted.drift_scale, planted.drift_scale, 0)
        drift = gaussian_filter(rng.standard_normal((regions, grid, grid, rank)), smooth, mode="wrap")
        drift *= planted.drift / max(drift.std(), 1e-12)
        tokens += (shift + drift).astype(np.float32) @ self.directions
        if planted.wave:
            tokens += self._wave(regions, rng).astype(np.float32) @ self.directions
        if planted.tails:
            noise = rng.standard_t(planted.tails, tokens.shape) * np.sqrt(1 - 2 / planted.tails)
            tokens += (planted.noise * noise).astype(np.float32)
        else:
            tokens += np.float32(planted.noise) * rng.standard_normal(tokens.shape, dtype=np.float32)
        if planted.gain:
            tokens *= np.exp(planted.gain * rng.standard_normal(planted.dim)).astype(np.float32)
        return tokens

    def _wave(self, regions: int, rng: np.random.Generator) -> FloatArray:
        """Draw a plane wave per direction over the slide, (R, grid, grid, rank): random orientation and phase."""
        grid, rank = self.planted.grid, self.planted.shift_rank
        side = math.ceil(math.sqrt(regions))
        down, across = np.divmod(np.arange(regions), side)
        rows = (down[:, None, None] * grid + np.arange(grid)[:, None])[..., None]
        columns = (across[:, None, None] * grid + np.arange(grid))[..., None]
        angle, phase = rng.uniform(0, 2 * np.pi, (2, rank))
        place = np.cos(angle) * rows + np.sin(angle) * columns
        wave: FloatArray = self.planted.wave * np.sqrt(2) * np.sin(2 * np.pi * place / self.planted.wave_length + phase)
        return wave


def write_cohort(planted: Planted, folder: Path, model: DrawsTokens | None = None) -> Truth:
    """Write cache, manifest and truth, and return the truth. Existing slides are kept.

    Tokens are drawn by `model`, by default by the `TokenModel` of the cohort.
    """
    cache = folder / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    truth, model = plan(planted), model or TokenModel(planted)
    write_slides(planted, truth, cache, model)
    with atomic_path(folder / TRUTH) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **{item.name: getattr(truth, item.name) for item in fields(truth)})
    columns = (truth.slide_ids, truth.patients, truth.sites, truth.label, truth.grade, truth.time, truth.event)
    rows = [(slide_id, f"{slide_id}.svs", *rest) for slide_id, *rest in zip(*columns, strict=True)]
    write_csv(folder / MANIFEST, _COLUMNS, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    return truth


def write_slides(planted: Planted, truth: Truth, cache: Path, model: DrawsTokens) -> None:
    """Write the token files of a cohort, except those that exist."""
    cache.mkdir(parents=True, exist_ok=True)
    for slide, slide_id in enumerate(truth.slide_ids):
        path = cache / f"{slide_id}.h5"
        if not path.exists():
            own = truth.architecture[truth.slide_of_region == slide]
            _write_slide(path, str(slide_id), planted, model.draw(slide, int(truth.sites[slide]), own))


def _write_slide(path: Path, slide_id: str, planted: Planted, tokens: NDArray[np.float32]) -> None:
    """Write one token file; regions are arranged row by row in a square, so that equal architectures are adjacent."""
    regions, grid = len(tokens), planted.grid
    region_px = grid * _PATCH_PX
    side = math.ceil(math.sqrt(regions))
    meta = TokenMeta(
        slide_id=slide_id,
        slide_width_l0=side * region_px,
        slide_height_l0=side * region_px,
        slide_fingerprint="planted",
        mpp_l0=0.5,
        target_mpp=0.5,
        effective_mpp=0.5,
        upsampling=1.0,
        patch_px=_PATCH_PX,
        region_px=region_px,
        region_l0=region_px,
        min_tissue=0.0,
        encoder="planted",
        encoder_sha256=f"{planted.seed:064x}",
        encoder_input_px=_PATCH_PX,
        embedding_dim=planted.dim,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        precision="fp32",
        toolkit_version="planted",
        recipe="{}",
    )
    index = np.arange(regions)
    coords = np.stack([index % side, index // side], axis=1) * region_px
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    with TokenWriter(path, meta, coords, np.ones((regions, grid, grid), np.float32)) as writer:
        for region in range(regions):
            writer.put(region, rows, columns, tokens[region].reshape(-1, planted.dim))


def _slides_of_patients(slides: int, rng: np.random.Generator) -> IntArray:
    """Draw the number of slides of each patient, (P,): one to three, `slides` in total."""
    counts = rng.choice([1, 2, 3], size=slides, p=[0.7, 0.2, 0.1])
    total = counts.cumsum()
    last = int(np.searchsorted(total, slides))
    counts = counts[: last + 1]
    counts[-1] -= total[last] - slides
    return counts.astype(np.int64)


def _sizes(planted: Planted, rng: np.random.Generator) -> IntArray:
    """Draw the number of regions of each slide, (S,)."""
    if planted.sizes is None:
        drawn = rng.gamma(TCGA_SHAPE, planted.regions / TCGA_SHAPE, planted.slides)
    else:
        observed = np.load(planted.sizes)
        drawn = rng.choice(observed, planted.slides) * (planted.regions / observed.mean())
    return np.maximum(drawn.round().astype(np.int64), 1)


def _architectures_of(logits: FloatArray, size: int, rng: np.random.Generator) -> IntArray:
    """Draw the sorted architectures of the regions of a slide, (size,): three to six different ones."""
    count = min(int(rng.integers(_SMALLEST, _LARGEST + 1)), len(logits))
    chosen = np.argsort(-(logits + rng.gumbel(size=len(logits))))[:count]  # without replacement
    shares = np.exp(logits[chosen]) * rng.gamma(2.0, size=count)
    return np.sort(rng.choice(chosen, size, p=shares / shares.sum())).astype(np.int64)


def _standardised(scores: FloatArray) -> FloatArray:
    standardised: FloatArray = (scores - scores.mean(axis=0)) / np.maximum(scores.std(axis=0), 1e-12)
    return standardised


def parse(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every parameter."""
    for item in fields(Planted):
        assert item.default is not MISSING
        name = f"--{item.name.replace('_', '-')}"
        if isinstance(item.default, tuple):
            parser.add_argument(name, type=float, nargs="+", default=item.default)
        elif isinstance(item.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=Path if item.default is None else type(item.default), default=item.default)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parse(parser)
    values = vars(parser.parse_args())
    out = values.pop("out")
    planted = Planted(**values | {"scales": tuple(values["scales"])})
    truth = write_cohort(planted, out)
    print(f"{out}: {len(truth.slide_ids)} slides, {len(truth.architecture)} regions, {asdict(planted)}")


if __name__ == "__main__":
    main()
