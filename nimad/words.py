"""Numbers in sentences."""


def number_of(count: int, one: str, many: str = "") -> str:
    """As `1 entry`, `2 entries`; without a plural of its own, a word gets an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def set_aside(rows: int, parts: int, ranges: int) -> str:
    """What a quarantine holds."""
    unread = f" and {number_of(ranges, 'id range that cannot', 'id ranges that cannot')} be read" if ranges else ""
    joint = "," if ranges else " and"
    return f"{number_of(rows, 'row')}{joint} {number_of(parts, 'part of a row', 'parts of rows')}{unread}"
