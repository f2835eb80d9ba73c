"""Journal fields that tell where in a run an entry was written."""

from dataclasses import dataclass, replace

from nimad.events import run as e


@dataclass(frozen=True)
class JournalFields:
    """Which run, what it does, and at which batch. `offset`: rows of the table that are through."""

    run: str = ""
    phase: str = ""
    batch: int | None = None
    offset: int | None = None
    attempt: int | None = None

    def after(self, event: e.Event) -> "JournalFields":
        """Where the run is with this event, or still is if that does not say."""
        match event:
            case e.Analyzing():
                return JournalFields(event.run, "analyzing")
            case e.BatchLoaded():
                return JournalFields(self.run, _loading(event.table), batch=event.number, offset=event.done)
            case e.BatchFailed():  # which does not know its number
                return replace(self, batch=None, offset=event.offset, attempt=event.attempt)
            case e.BatchRecovered():
                return replace(self, attempt=event.attempt)
            case e.Isolating() | e.Isolated():
                return replace(self, phase=_loading(event.table))
            case e.TableLoaded() | e.BatchLost():
                return JournalFields(self.run, _loading(event.table))
        phase = _PHASES.get(type(event))
        return JournalFields(self.run, phase) if phase else self

    def fields(self) -> dict[str, str]:
        """As the journal's fields; none for what is not known."""
        values = {
            "NIMA_RUN": self.run or None,
            "NIMA_PHASE": self.phase or None,
            "NIMA_BATCH": self.batch,
            "NIMA_OFFSET": self.offset,
            "NIMA_ATTEMPT": self.attempt,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


def passes(event: e.Event) -> bool:
    """Whether the run goes on where it was before: a file is also compacted in the middle of loading."""
    return isinstance(event, (e.Compacted, e.NotCompacted))


def _loading(table: str) -> str:
    return f"loading {table}"


#: As the state file names them, for the events that are of one phase.
_PHASES: dict[type[e.Event], str] = {
    e.Started: _loading("memory_nodes"),
    e.Compacted: "compacting",
    e.NotCompacted: "compacting",
    e.Indexed: "indexing",
    e.NotIndexed: "indexing",
    e.Verifying: "verifying",
    e.Verified: "verifying",
    e.ReaderChecked: "checking the reader",
    e.Published: "publishing",
    e.Finished: "complete",
}
