"""Aggregators, one file each, listed by `--aggregator`. Each module defines its head as `HEAD`."""
