"""One module per command, each with `run(config)`. Commands share files on disk, not code."""
