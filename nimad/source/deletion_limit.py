"""How many rows a source may lose before somebody has to confirm it."""

#: Rows, and the share of the copied ones, that an agent deletes in passing.
_ROWS, _SHARE = 10, 0.1


def deleted_in_passing(copied: int) -> float:
    """How many of so many copied rows may be gone without anybody having to ask."""
    return max(_ROWS, copied * _SHARE)
