"""Pixels: reading slides by micrometres, finding tissue, laying the region lattice."""
