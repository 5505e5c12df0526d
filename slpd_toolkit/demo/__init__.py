"""Synthetic slides with a known ground truth, and the conclusions that `slpd demo` draws from them."""
