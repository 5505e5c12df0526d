"""Formats that `slpd import` reads: one file per tool, found by its name."""
