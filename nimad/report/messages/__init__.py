"""The wording of every event and of every screen."""
