"""Formats that `slpd import` reads: one file per tool, found by file name."""
