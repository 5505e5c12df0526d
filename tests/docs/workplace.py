"""A folder in which the blocks of a page can be run: slides, a manifest, weights, and stand-ins for the rest."""

from __future__ import annotations

import csv
import io
import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.encoders.timm import import_timm
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.models.patch_vit import PatchViT
from slpd_toolkit.models.region_vit import RegionViT
from tests.cohorts import write_manifest
from tests.conftest import REPOSITORY
from tests.docs.pages import read_blocks
from tests.foreign.factory import features_of, lattice_of, shuffled, write_clam, write_trident
from tests.slide_factory import tissue_on_glass, write_slide

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDE_UM = 480
PATIENTS = 12
SMALL_RECIPES = {
    "embed": 'mpp = 1.0\nregion_px = 128\npatch_px = 32\nprecision = "fp32"\nworkers = 1\n',
    "pretrain": "batch_size = 16\nwarmup_epochs = 1\nprototype_epoch = 0\nclusters = 2\nmin_regions = 2\ndepth = 1\n"
    "global_side = 3\nlocal_side = 2\nlocal_crops = 2\nembed_dim = 24\nhidden_dim = 32\nbottleneck_dim = 16\n"
    "out_dim = 64\n",
    "eval": "repeats = 1\nsteps = 40\npermutations = 50\n",
}
"""Recipes of a study that takes seconds."""
NAMES = ("slpd", "torchrun", "python", "srun", "sbatch", "scontrol", "ray", "sleep", "make", "pip")


def furnish(folder: Path) -> None:
    """Write all files that the pages assume."""
    rows = manifest_rows()
    write_manifest(folder / "cohort.csv", rows)
    for seed, row in enumerate(rows):
        mpp = float(row["mpp"] or 1.0)
        side = round(SIDE_UM / mpp)
        picture = tissue_on_glass(side, side, [(side // 8, side // 8, side, side)], mpp=mpp, seed=seed)
        path = folder / row["slide_path"]
        path.parent.mkdir(exist_ok=True, parents=True)
        write_slide(path, picture, mpp=mpp, downsamples=(2,), compression="jpeg")
    torch.save({"teacher": PatchViT().state_dict()}, folder / "vit256_small_dino.pth")
    small = RegionViT(RegionViTConfig(embed_dim=24, depth=1), grid=3)
    torch.save(
        {"teacher": {f"backbone.{name}": value for name, value in small.state_dict().items()}},
        folder / "vit4k_xs_dino.pth",
    )
    uni = import_timm().create_model("vit_tiny_patch16_224", init_values=1e-5, img_size=32, num_classes=0)
    torch.save(uni.state_dict(), folder / "pytorch_model.bin")
    for stage, text in SMALL_RECIPES.items():
        (folder / f"small-{stage}.toml").write_text(text)
    write_clam_tables(folder, rows)
    write_foreign_features(folder, [row["slide_id"] for row in rows[:4]])
    install_stand_ins(folder / "bin")


def manifest_rows() -> list[dict[str, str]]:
    """Return the rows shown in the tutorial, and further patients of both classes."""
    (shown,) = [block for block in read_blocks(REPOSITORY / "docs/tutorial.md") if block.caption == "cohort.csv"]
    rows: list[dict[str, str]] = list(csv.DictReader(io.StringIO(shown.text)))
    for number in range(PATIENTS - len(rows)):
        slide_id = f"P{number:02}-001"
        label = ("luad", "lusc")[number % 2]
        rows.append(
            {
                "slide_id": slide_id,
                "slide_path": f"slides/{slide_id}.svs",
                "patient_id": f"P{number:02}",
                "mpp": "",
                "label": label,
            }
        )
    patients = list(dict.fromkeys(row["patient_id"] for row in rows))
    for row in rows:
        number = patients.index(row["patient_id"])
        row |= {"grade": f"G{1 + number % 3}", "time": str(5 + number), "event": str(number % 2)}
        row["split"] = "test" if number % 4 == 3 else "train"
        row.setdefault("site", ("A2", "BH")[number // 2 % 2])
    return rows


def write_clam_tables(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write a label table and splits in the format of CLAM and HIPT."""
    table = [
        {"case_id": row["patient_id"], "slide_id": f"{row['slide_id']}.svs", "label": row["label"]} for row in rows
    ]
    write_manifest(folder / "tcga_nsclc.csv", table)
    slides, patients, labels = (np.array([row[name] for row in rows]) for name in ("slide_id", "patient_id", "label"))
    (folder / "splits").mkdir()
    for split in cross_validation(Cohort(slides, patients, labels), folds=3):
        parts = itertools.zip_longest(split.train, split.val, split.test, fillvalue="")
        columns = [dict(zip(("train", "val", "test"), names, strict=True)) for names in parts]
        write_manifest(folder / "splits" / f"splits_{split.fold}.csv", columns)


def write_foreign_features(folder: Path, slide_ids: list[str]) -> None:
    """Write features of a few slides in the formats of TRIDENT and CLAM: 2 x 2 regions of 16 x 16 patches each."""
    coords = lattice_of(32, 32)
    for seed, slide_id in enumerate(slide_ids):
        features, places = shuffled(features_of(len(coords), width=64, seed=seed), coords, seed=seed)
        write_trident(folder / f"job_dir/20x_256px_0px_overlap/features_uni_v1/{slide_id}.h5", features, places)
        write_clam(folder / "clam", slide_id, features, places // 2)  # in 256-px steps, as read at level 0


def install_stand_ins(folder: Path) -> None:
    folder.mkdir()
    script = Path(__file__).with_name("stand_ins.py")
    for name in NAMES:
        (folder / name).write_text(f'#!/bin/bash\nexec {sys.executable} {script} {name} "$@"\n')
        (folder / name).chmod(0o755)


def environment(folder: Path, package: Path = REPOSITORY) -> Mapping[str, str]:
    return os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "SLPD_REPOSITORY": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
