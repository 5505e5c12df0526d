"""Files of other tools: reading their patch features, placing them on a grid, and writing their formats."""
