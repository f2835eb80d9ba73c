"""Metrics of the runs in a file for node_exporter's textfile collector.

Written anew, whole and by one rename, at each event that changes a figure. Names and units are Prometheus's own.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nimad import printable
from nimad._version import VERSION
from nimad.config import Settings
from nimad.errors import ExitCode, NimadError
from nimad.events import run as e
from nimad.events import service as s
from nimad.events import sync as f
from nimad.host import root_helper
from nimad.report.level import Level
from nimad.report.log.sinks import Log
from nimad.source.schema import TARGET_TABLES
from nimad.state import target_state
from nimad.state.paths import Files, replace_bytes

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: node_exporter runs as a user of its own.
_MOST: Final = 2**63
_MODE: Final = 0o644
#: What goes on, by the event that begins it.
_PHASES: Final[Mapping[type[e.Event], str]] = {
    e.Analyzing: "analyzing",
    e.Started: "loading",
    e.BatchLoaded: "loading",
    e.Resumed: "loading",
    e.Paused: "paused",
    e.Verifying: "verifying",
    e.Published: "publishing",
    e.Finished: "complete",
    e.NothingToDo: "complete",
    s.Followed: "following",
    s.Looked: "following",
    s.Waiting: "waiting",
    s.TargetGone: "waiting",
    s.Postponed: "postponed",
    s.Stopping: "stopped",
}
_FAILED, _IDLE = "failed", "idle"
PHASES: Final = (_IDLE, *dict.fromkeys(_PHASES.values()), _FAILED)


@dataclass
class _Figures:
    """What the file tells. Sizes in bytes, times in seconds; None where nobody knows."""

    phase: str = _IDLE
    source_rows: dict[str, int] = field(default_factory=dict)
    migrated_rows: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    failed_batches: int = 0
    retries: int = 0
    late: dict[str, int] = field(default_factory=lambda: {"added": 0, "changed": 0, "removed": 0})
    rows_per_s: float = 0.0
    eta_s: float = 0.0
    source_bytes: int | None = None
    target_bytes: int | None = None
    quarantined: int = 0
    peak_rss: int | None = None
    planned_bytes: int | None = None
    last_success: float | None = None
    exit_code: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)

    def gauges(self) -> Iterator[tuple[str, str, float | None]]:
        yield "rows_per_second", "Rows of the table under way that the last batch brought in a second.", self.rows_per_s
        yield "eta_seconds", "Seconds until the table under way is through, as far as can be foreseen.", self.eta_s
        yield "source_size_bytes", "Size of the SQLite memory, as it was analyzed last.", self.source_bytes
        yield "target_size_bytes", "Size of the LadybugDB file.", self.target_bytes
        yield "quarantined_rows", "Rows, parts of rows and id ranges in quarantine.", self.quarantined
        yield "worker_peak_rss_bytes", "Memory that the largest worker of this run took.", self.peak_rss
        yield "worker_planned_bytes", "Memory that a worker may come to by the plan.", self.planned_bytes
        yield "last_success_timestamp_seconds", "When a run or a look last left the target complete.", self.last_success
        yield "last_run_exit_code", "Exit code of the last run that ended: 0, or 1 with a quarantine.", self.exit_code

    def counters(self) -> Iterator[tuple[str, str, int]]:
        yield "batches", "Batches that workers put into the target.", self.batches
        yield "failed_batches", "Batches that failed in every try.", self.failed_batches
        yield "retries", "Tries of a batch after one that failed.", self.retries


class Metrics:
    """A listener that keeps the file; does nothing where the settings name none, and imports nothing for it."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings, self._log = settings, log
        self._figures = _Figures()
        self._refused = False
        self._read_state()

    def use(self, settings: Settings) -> None:
        """From now on, go by these settings."""
        self._settings = settings

    def __call__(self, event: e.Event) -> None:
        if self._settings.metrics_file is None:
            return
        if self._note(event):
            self._put(self._settings.metrics_file)

    def failed(self, error: NimadError) -> None:
        """The run, or the service, ends in this error."""
        self._figures.phase, self._figures.exit_code = _FAILED, int(error.exit_code)
        self._figures.rows_per_s = self._figures.eta_s = 0.0
        if self._settings.metrics_file is not None:
            self._put(self._settings.metrics_file)

    def _read_state(self) -> None:
        """Begin with what the runs before left: a program that restarts has not forgotten its last success."""
        figures = self._figures
        made = target_state.of_target(Files(self._settings.target)) if self._settings.metrics_file else {}
        with suppress(TypeError, ValueError, AttributeError, OSError):  # somebody wrote in it
            published = made.get("published", {})
            figures.migrated_rows = {name: _whole(published[table]) for name, table in _counted(published)}
            figures.quarantined = _whole(made.get("quarantined", 0))
            figures.engine = {name: _text(value) for name, value in made.get("versions", {}).get("engine", {}).items()}
            if made:
                figures.last_success = target_state.moment(made["updated"])
                figures.target_bytes = self._settings.target.stat().st_size

    def _note(self, event: e.Event) -> bool:
        """Whether a figure changed."""
        figures = self._figures
        figures.phase = _PHASES.get(type(event), figures.phase)
        if isinstance(event, (s.Postponed, s.Stopping)):
            figures.rows_per_s = figures.eta_s = 0.0
        match event:
            case e.Analyzed():
                figures.source_rows = dict(zip(TARGET_TABLES, (event.nodes, event.edges, event.turns), strict=True))
                figures.source_bytes = event.size
            case e.Planned():
                figures.planned_bytes, figures.peak_rss = event.plan["worker_bytes"], None
            case e.EngineChosen():
                name, _, version = event.engine.partition(" ")
                figures.engine = {"name": name, "version": version, "storage_version": event.storage_version}
            case e.Started():
                figures.migrated_rows = {name: event.found[table] for name, table in _counted(event.found)}
            case e.BatchLoaded():
                self._load(event)
            case e.BatchFailed():
                figures.retries += event.delay_s is not None
                figures.failed_batches += event.delay_s is None
            case e.Quarantined():
                figures.quarantined = event.rows + event.parts + event.ranges
            case e.Published():
                figures.target_bytes = event.size
            case e.Finished():
                self._finish(event)
            case e.NothingToDo() | s.Looked():
                self._succeed(event)
            case f.CaughtUp():
                self._catch_up(event)
            case s.Postponed():
                figures.exit_code = event.exit_code or figures.exit_code
            case _:
                return type(event) in _PHASES
        return True

    def _load(self, event: e.BatchLoaded) -> None:
        figures = self._figures
        figures.batches += 1
        figures.migrated_rows[event.table] = event.done
        figures.rows_per_s = event.rows / event.seconds if event.seconds else 0.0
        figures.eta_s = event.eta_s
        figures.peak_rss = max(event.peak_rss, figures.peak_rss or 0)

    def _finish(self, event: e.Finished) -> None:
        figures, result = self._figures, event.result
        figures.migrated_rows = dict(zip(TARGET_TABLES, (result.migrated, result.edges, result.turns), strict=True))
        figures.quarantined = result.quarantined + result.quarantined_parts + result.unread_ranges
        figures.peak_rss = max(result.peaks.values(), default=0) or figures.peak_rss
        figures.exit_code, figures.last_success = int(result.exit_code), time.time()
        figures.rows_per_s = figures.eta_s = 0.0

    def _succeed(self, event: e.Event) -> None:
        """The target is complete, and was looked at."""
        self._figures.last_success = time.time()
        if isinstance(event, e.NothingToDo):
            aside = self._figures.quarantined
            self._figures.exit_code = int(ExitCode.QUARANTINED if aside else ExitCode.COMPLETE)

    def _catch_up(self, event: f.CaughtUp) -> None:
        figures = self._figures
        figures.migrated_rows["memory_nodes"] = event.nodes
        figures.quarantined += event.quarantined
        for change in figures.late:
            figures.late[change] += getattr(event, change)
        with suppress(OSError):
            figures.target_bytes = self._settings.target.stat().st_size

    def _put(self, path: Path) -> None:
        """Write the file. What stands against it is said once."""
        try:
            if root_helper.holds(path):
                root_helper.replace(path, self._text(), _MODE)
            else:
                replace_bytes(path, [self._text()], _MODE)
            self._refused = False
        except (OSError, NimadError) as error:
            if not self._refused:
                self._refused = True
                why = error.strerror if isinstance(error, OSError) else error
                self._log.write(Level.WARN, f"The metrics file {path} cannot be written ({why}); going on without")

    def _text(self) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest

        registry: CollectorRegistry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> "Iterator[Metric]":
        """The families, as a registry of prometheus_client's asks for them."""
        from prometheus_client import metrics_core as core

        figures = self._figures
        info = {
            "version": VERSION,
            "engine": str(figures.engine.get("name", "")),
            "engine_version": str(figures.engine.get("version", "")),
            "storage_version": str(figures.engine.get("storage_version", "")),
        }
        yield core.InfoMetricFamily("nimad", "Versions of nimad and of the engine that writes.", info)
        phases = {phase: phase == figures.phase for phase in PHASES}
        yield core.StateSetMetricFamily("nimad_phase", "What nimad does.", phases)
        for name, text, rows in (
            ("nimad_source_rows", "Rows of each table of the SQLite memory.", figures.source_rows),
            ("nimad_migrated_rows", "Rows of each table that are in the target.", figures.migrated_rows),
        ):
            tables = core.GaugeMetricFamily(name, text, labels=["table"])
            for table, count in rows.items():
                tables.add_metric([table], count)
            yield tables
        for name, text, value in figures.gauges():
            if value is not None:
                yield core.GaugeMetricFamily(f"nimad_{name}", text, value)
        for name, text, total in figures.counters():
            yield core.CounterMetricFamily(f"nimad_{name}", text, total)
        late = core.CounterMetricFamily(
            "nimad_late_memories", "Memories brought to a finished target.", labels=["change"]
        )
        for change, memories in figures.late.items():
            late.add_metric([change], memories)
        yield late


def _whole(number: Any) -> int:
    """A count of the state file's. Raises `ValueError` for what is none."""
    if type(number) is not int or not 0 <= number < _MOST:
        raise ValueError
    return number


def _text(value: Any) -> str:
    return printable.one_line(str(value).encode(errors="replace").decode())


def _counted(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The tables of which these counts, by target table, tell: the source's name and the target's."""
    return [(name, table) for name, table in TARGET_TABLES.items() if table in rows]
