"""Patch encoders by name: one TOML table per encoder, in files by publisher; `[family]` is what tables share."""
