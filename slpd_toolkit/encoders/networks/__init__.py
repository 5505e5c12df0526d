"""How the networks of patch encoders are built: one module per kind, each with `build`, found by its file name.

`build(model, arguments, pooling)` returns an `nn.Module` that maps (N, 3, H, W) normalized RGB to (N, width) tokens. It
must also work under `torch.device("meta")`, where parameters are counted and compared without memory.
"""
