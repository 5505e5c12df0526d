"""Reading slides, tissue detection, and the lattice of regions."""
