"""Bundles: trained heads in a folder, with everything that predictions for new slides need."""
