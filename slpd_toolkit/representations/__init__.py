"""What `--model` names: bags of region embeddings of a frozen region ViT, mean tokens, or vectors of whole slides."""
