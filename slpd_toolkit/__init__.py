"""Slide-level representations of whole-slide images: token caches, SLPD pretraining, MIL evaluation."""

from slpd_toolkit.core.version import __version__

__all__ = ["__version__"]
