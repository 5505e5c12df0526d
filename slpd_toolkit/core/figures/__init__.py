"""Shared style of all figures: SVG output, fonts, and formatting of numbers and names."""
