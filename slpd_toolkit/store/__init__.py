"""The token cache, HDF5 files: schema, atomic writer, memory-mapped reader."""
