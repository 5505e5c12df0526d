"""Frozen patch encoders: pixels of a patch to one token."""
