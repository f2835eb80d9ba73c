"""The log file and the journal."""
