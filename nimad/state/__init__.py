"""The files beside a target: paths and lock, state, run history, provenance, quarantine, ledger and pause."""
