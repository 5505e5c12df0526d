"""Package version, recorded in output files and reports."""

__version__ = "0.2.0"
