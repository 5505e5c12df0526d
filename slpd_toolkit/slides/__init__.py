"""Pixels: the slide reader (the only place that imports openslide), tissue detection and the lattice of regions."""
