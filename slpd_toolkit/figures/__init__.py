"""One style for all figures: SVG pictures, fonts, and the wording of numbers and names."""
