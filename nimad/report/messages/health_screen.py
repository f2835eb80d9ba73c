"""The screen of `nimad health`: one file, or source and target side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nimad.diagnostics.health import Checkup, Health
from nimad.diagnostics.stats_diff import StatsDifference
from nimad.host.disk import FileKind
from nimad.plural import number_of
from nimad.report.console.screen import ScreenLine, Style
from nimad.report.console.symbols import Symbols
from nimad.source.stats import MemoryStats

KINDS: Mapping[FileKind | None, str] = {FileKind.SQLITE: "SQLite", FileKind.LADYBUG: "LadybugDB", None: "File"}
#: Columns of a page: of the names at its left, and of each file.
_NAME, _COLUMN = 22, 18
#: Layers that a page names.
_LAYERS = 8
_MB = 1_000_000


def lines(health: Health, signs: Symbols, *, verbose: bool) -> Iterator[ScreenLine]:
    """The page, in at most 80 columns but for paths and commands."""
    for file in health.files:
        yield ScreenLine(f"{KINDS[file.kind]:<10} {file.path}", Style.FAINT)
    known = [file for file in health.files if file.vitals]
    if known:
        yield ScreenLine("")
        for row in _table(known, health.differences, signs, verbose=verbose):
            yield ScreenLine(row, Style.WARNING if f" {signs.differs}" in row else Style.PLAIN)
    yield ScreenLine("")
    yield from (ScreenLine(f"{signs.warning} {note}", Style.WARNING) for note in health.notes)
    yield from _verdict(health, signs)


def _verdict(health: Health, signs: Symbols) -> Iterator[ScreenLine]:
    for file in health.files:
        if file.problem:
            yield ScreenLine(f"{signs.bad} Not healthy: {file.problem}", Style.BAD)
    yield from (ScreenLine(f"{signs.bad} Not healthy: {log}", Style.BAD) for log in health.unread)
    unexplained = [found for found in health.differences if not found.expected]
    if unexplained:
        count = number_of(len(unexplained), "figure differs", "figures differ")
        yield ScreenLine(f"{signs.bad} Not healthy: {count} between the two, see {signs.differs} above", Style.BAD)
        yield ScreenLine(health.advice, Style.HEAD)
    if health.ok:
        also = f"; what differs ({signs.differs}) is accounted for" if health.differences else ""
        yield ScreenLine(f"{signs.good} Healthy{also}", Style.GOOD)


def _table(
    files: Sequence[Checkup], differing: Sequence[StatsDifference], signs: Symbols, *, verbose: bool
) -> Iterator[str]:
    marks = {found.what: f" {signs.differs} {found.why}".rstrip() for found in differing}

    def row(name: str, values: Sequence[str], what: str = "") -> str:
        return f"{name:<{_NAME}}{''.join(f'{value:>{_COLUMN}}' for value in values)}{marks.get(what, '')}"

    def of(name: str, shown: Callable[[Any], str] = _number) -> list[str]:
        return [shown(getattr(file.vitals, name)) for file in files]

    vitals = [file.vitals for file in files if file.vitals]
    if len(files) > 1:
        yield row("", [KINDS[file.kind] for file in files])
    yield row("Size", [_size(file.bytes) for file in files])
    yield row("Memories", of("nodes"), "nodes")
    yield row("Turns", of("turns"), "turns")
    yield row("Edges", of("edges"), "edges")
    yield row("Embeddings", of("embeddings"), "embeddings")
    yield row("In the last 24 hours", of("recent"), "recent")
    yield row("First memory", of("first_ms", _moment), "first_ms")
    yield row("Last memory", of("last_ms", _moment), "last_ms")
    yield row("Text search", [_text_search(each) for each in vitals])
    yield row("Vector search", [_vector_search(each) for each in vitals])
    names = list(dict.fromkeys(name for each in vitals for name in each.layers))
    yield from ["", "Layers"] if names else []
    for name in names[:_LAYERS]:
        shares = [_share(each.layers.get(name, 0), each) for each in vitals]
        yield row(f"  {_short(name, signs)}", shares, f"layer {name}")
    if len(names) > _LAYERS:
        yield f"  and {number_of(len(names) - _LAYERS, 'more', 'more')}; --json has all"
    if verbose:
        yield from _more(vitals, row, signs)


def _more(vitals: Sequence[MemoryStats], row: Callable[..., str], signs: Symbols) -> Iterator[str]:
    names = list(dict.fromkeys(name for each in vitals for name in each.contributors))
    yield from ["", "Most memories by"] if names else []
    for name in names:
        yield row(f"  {_short(name, signs)}", [_contributed(each, name, signs) for each in vitals])
    yield ""
    scores = ["none" if each.mean_fe_score is None else f"{each.mean_fe_score:.4f}" for each in vitals]
    yield row("Mean free energy", scores, "mean_fe_score")
    yield row("Tables", [str(len(each.tables)) for each in vitals])


def _contributed(vitals: MemoryStats, name: str, signs: Symbols) -> str:
    """A dash where somebody is not among the first ones, which says nothing of how many there are."""
    return _share(vitals.contributors[name], vitals) if name in vitals.contributors else signs.none


def _short(name: str, signs: Symbols) -> str:
    plain = signs.text(" ".join(name.split()))
    room = _NAME - 3
    return plain if len(plain) <= room else plain[: room - len(signs.more)] + signs.more


def _number(value: int) -> str:
    return f"{value:,}"


def _size(size: int) -> str:
    return f"{size / _MB:,.1f} MB"


def _share(rows: int, vitals: MemoryStats) -> str:
    return f"{rows:,} {100 * rows / vitals.nodes if vitals.nodes else 0:5.1f} %"


def _moment(value: int | None) -> str:
    if value is None:
        return "none"
    try:
        return datetime.fromtimestamp(value / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return str(value)


def _text_search(vitals: MemoryStats) -> str:
    return "full-text index" if vitals.full_text_index else "without index"


def _vector_search(vitals: MemoryStats) -> str:
    if vitals.vector_index:
        return "vector index"
    return "exact" if vitals.embeddings else "no embeddings"


# For programs


def to_json(health: Health, *, verbose: bool) -> dict[str, Any]:
    """The whole of it. `path`, `kind` and `stats` are those of the first file, which is the SQLite one of two."""
    files = [_file(file, verbose=verbose) for file in health.files]
    first = files[0]
    return {
        "ok": health.ok,
        **{name: first[name] for name in ("path", "kind", "stats")},
        "files": files,
        "differences": [
            {"what": found.what, "source": found.source, "target": found.target, "why": found.why or None}
            for found in health.differences
        ],
        "notes": list(health.notes),
        "unread": list(health.unread),
    }


def _file(file: Checkup, *, verbose: bool) -> dict[str, Any]:
    return {
        "ok": file.ok,
        "path": str(file.path),
        "kind": file.kind,
        "problem": file.problem or None,
        "stats": _stats(file, verbose=verbose),
    }


def _stats(file: Checkup, *, verbose: bool) -> dict[str, Any]:
    """Every key in any case; null for what could not be found out."""
    known = file.vitals
    stats: dict[str, Any] = {
        "nodes": known and known.nodes,
        "turns": known and known.turns,
        "edges": known and known.edges,
        "embeddings": known and known.embeddings,
        "layers": known and dict(known.layers),
        "recent_24h": known and known.recent,
        "db_size_bytes": file.bytes,
        "db_size_mb": round(file.bytes / _MB, 2),
        "tables": known and list(known.tables),
        "fts_enabled": known and known.full_text_index,
        "vector_index": known and known.vector_index,
        "first_memory": known and _stamp(known.first_ms),
        "last_memory": known and _stamp(known.last_ms),
    }
    if verbose:
        stats["top_contributors"] = known and dict(known.contributors)
        stats["mean_fe_score"] = known and known.mean_fe_score
    return stats


def _stamp(value: int | None) -> str | int | None:
    """A moment as ISO 8601 has it; the number itself, where it is in no year that has a name."""
    if value is None:
        return None
    try:
        return datetime.fromtimestamp(value / 1_000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return value
