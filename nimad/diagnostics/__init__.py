"""Diagnostics: status, health, doctor and search. They look at a migration and its files and change nothing."""
