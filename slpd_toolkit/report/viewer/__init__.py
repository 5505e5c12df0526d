"""The page of `slpd view`: a local server that shows slides with their regions, prototypes, attention and scores."""
