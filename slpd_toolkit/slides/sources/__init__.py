"""Where pixels come from: one file per source, found by `slides.source`."""
