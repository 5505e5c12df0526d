"""Simulated cohorts with a known truth, and heads that are fitted on many at once. See `benchmarks.coverage`."""
