"""Heads on bags of region embeddings: probes, aggregators, and their training on folds."""
