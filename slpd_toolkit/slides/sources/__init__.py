"""Sources of pixels, one file each, found by `slides.source`."""
