"""One frozen dataclass a stage; the docstring under each attribute is its `--help` and its line in the reference."""
