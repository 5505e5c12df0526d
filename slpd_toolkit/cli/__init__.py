"""The `slpd` command line: commands, options and help, generated from the settings."""
