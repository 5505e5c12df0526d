"""Ways to divide a cohort, one file each: `--split-kind` lists them. Each module names its class as `SPLIT_KIND`."""
