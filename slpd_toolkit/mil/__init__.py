"""Slide-level evaluation: splits, their leakage audit, heads on bags of regions, metrics and statistics."""
