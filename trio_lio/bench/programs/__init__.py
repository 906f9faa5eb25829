"""Programs that measure themselves and print JSON; run as scripts, by `_lab`."""
