"""Building blocks independent of slides and models: errors, files, console, devices, worker processes."""
