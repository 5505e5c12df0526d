"""Networks: pure `nn.Module`s whose parameter names are those of the published DINO, HIPT and SLPD weights."""
