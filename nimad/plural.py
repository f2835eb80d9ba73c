"""Numbers and nouns in sentences."""


def number_of(count: int, one: str, many: str = "") -> str:
    """As `1 entry`, `2 entries`; without a plural of its own, a word gets an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def set_aside(rows: int, parts: int, ranges: int) -> str:
    """What a quarantine holds: whole rows, single values, and ranges of ids."""
    unread = number_of(ranges, "id range that cannot be read", "id ranges that cannot be read")
    counts = ((rows, number_of(rows, "row")), (parts, number_of(parts, "value")), (ranges, unread))
    *first, last = [text for count, text in counts if count] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last
