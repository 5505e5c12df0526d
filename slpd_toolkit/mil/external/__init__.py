"""External validation: the heads of one cohort on all slides of another."""
