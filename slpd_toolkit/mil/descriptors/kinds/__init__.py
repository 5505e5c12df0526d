"""Descriptors, one file each, chosen by `--as` and by `--model source#name`. Each module defines a `DESCRIPTOR`."""
