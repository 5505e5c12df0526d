"""What `import slpd_toolkit as slpd` offers beyond the rooms' own classes: every command as a function."""
