"""Cleanup: finds what earlier runs left beside a target, and removes what is safe to remove."""
