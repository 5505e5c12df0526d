"""Kinds of targets, one file each: listed by `--task`. Each module defines its class as `TASK`."""
