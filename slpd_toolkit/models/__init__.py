"""Networks: plain `nn.Module`s with the parameter names of the published DINO, HIPT and SLPD weights."""
