"""Figures, images and HTML pages."""
