"""Rows that only the old target has: exported from it, and restored into the new one."""
