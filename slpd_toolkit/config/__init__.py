"""One frozen dataclass per command; the docstring below each attribute is its `--help` text and its reference entry."""
