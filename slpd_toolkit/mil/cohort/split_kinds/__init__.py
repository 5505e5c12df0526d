"""Split kinds, one file each, listed by `--split-kind`. Each module defines its class as `SPLIT_KIND`."""
