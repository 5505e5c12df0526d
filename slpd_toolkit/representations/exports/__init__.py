"""What `slpd export` writes for other tools: weights, tokens and embeddings."""
