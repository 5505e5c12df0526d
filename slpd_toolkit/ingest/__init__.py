"""Filling a token cache: `embedding` from slides, `importing` from the feature files of other tools."""
