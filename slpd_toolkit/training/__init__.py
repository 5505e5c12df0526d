"""What the training loop stands on: processes, order and batches, checkpoints, metrics, the epoch boundary."""
