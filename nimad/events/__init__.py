"""Events: what happens in a run, in the sync and in the service, as facts without words."""
