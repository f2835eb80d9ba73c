"""The operator's desk: what can be asked about a migration and its files at any time. Nothing here changes anything."""
