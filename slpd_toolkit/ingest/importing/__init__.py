"""`slpd import`: features of other tools matched with a manifest, placed on a grid and written as token files."""
