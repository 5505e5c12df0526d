"""The HDF5 token cache: schema, atomic writer, memory-mapped reader."""
