"""`slpd embed`: slides opened and read ahead, encoded in full batches, and written as token files."""
