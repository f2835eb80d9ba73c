"""The report: console, log, journal, metrics, and the wording of every message."""
