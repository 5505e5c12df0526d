"""Representations given with `--model`: region embeddings of a frozen region ViT, mean tokens, or slide vectors."""
