"""Aggregators, one file each: `--aggregator` lists them. Each module names its head as `HEAD`."""
