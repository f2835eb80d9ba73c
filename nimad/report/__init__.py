"""What people read: lines of the console and the log, the progress bar, events as JSON."""
