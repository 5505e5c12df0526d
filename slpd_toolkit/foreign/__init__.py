"""Files of other tools: reading their patch features, placing them on a grid, writing what they read."""
