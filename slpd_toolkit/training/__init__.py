"""Training: loop, distributed processes, sampling, checkpoints, metrics, and prototypes between epochs."""
