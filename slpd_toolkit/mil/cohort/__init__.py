"""Evaluation cohorts: patients, targets, splits and leakage audits."""
