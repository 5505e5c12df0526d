"""The version of this package, which files and pages of results record."""

__version__ = "0.1.0"
