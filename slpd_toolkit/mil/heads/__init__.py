"""Heads on bags of region embeddings: probes, aggregators, and their cross-validated training."""
