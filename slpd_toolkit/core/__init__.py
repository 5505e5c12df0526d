"""Building blocks that know nothing of slides or models: errors, files, console, devices, worker processes."""
