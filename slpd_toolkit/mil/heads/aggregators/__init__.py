"""Aggregators: a bag of region embeddings to the logits of a slide. Small networks, one file each."""
