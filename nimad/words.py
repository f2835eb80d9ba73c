"""Numbers in sentences."""


def number_of(count: int, one: str, many: str = "") -> str:
    """As `1 entry`, `2 entries`; without a plural of its own, a word gets an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def rows_and_parts(rows: int, parts: int) -> str:
    """What a quarantine holds."""
    return f"{number_of(rows, 'row')} and {number_of(parts, 'part of a row', 'parts of rows')}"
