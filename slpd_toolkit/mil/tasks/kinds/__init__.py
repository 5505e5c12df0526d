"""Kinds of targets, one file each: `--task` lists them. Each module names its class as `TASK`."""
