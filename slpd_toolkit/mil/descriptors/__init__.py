"""Descriptors of a slide: from the regions of a slide to one vector, or to a small set of weighted vectors."""
