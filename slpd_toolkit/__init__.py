"""Slide-level representations of whole-slide images: token caches, SLPD pretraining, MIL evaluation."""

__version__ = "0.1.0"
