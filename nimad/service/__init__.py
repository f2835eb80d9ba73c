"""The daemon: when to work, what to tell systemd, which files to watch."""
