"""Sync: brings rows that reach SQLite after publishing to the published target."""
