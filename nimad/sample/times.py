"""The days that a sample covers."""

from datetime import UTC, datetime

DAY_MS = 86_400_000
END_MS = int(datetime(2026, 3, 31, tzinfo=UTC).timestamp()) * 1_000  #: No sample turn begins later, in ms.
TURN_DAYS = 180  #: Turns are spread over the days up to ``END_MS`` …
LEGACY_DAYS = 90  #: … and the rows imported from the older store over the days before those.


def written(timestamp_ms: int) -> str:
    """Return the moment as SQLite's ``datetime('now')`` writes it."""
    return datetime.fromtimestamp(timestamp_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
