"""SLPD objectives: crops, cross-view distillation, slide prototypes, schedules and optimizers."""
