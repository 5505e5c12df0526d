"""Stage two: train the region ViT on cached tokens with the SLPD objectives. The loop is `training.loop.train`."""

from __future__ import annotations


