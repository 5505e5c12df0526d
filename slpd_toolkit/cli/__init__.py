"""The `slpd` command line: commands, options and help, made from the settings."""
