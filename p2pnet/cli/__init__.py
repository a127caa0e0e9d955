"""The command line: one file per command, flags to config to one call. No logic."""
