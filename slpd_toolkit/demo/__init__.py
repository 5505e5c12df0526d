"""Synthetic slides with a known ground truth."""
