"""The report of one migration: its model, and the text, JSON and HTML forms of it."""
