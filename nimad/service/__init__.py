"""The daemon: when to work, what to tell systemd, what to listen to."""
