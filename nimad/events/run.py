"""Events of a run, as facts. :mod:`nimad.report` words them; nothing here depends on a listener."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nimad.events.result import Result
from nimad.source.schema import Default


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    def to_json(self) -> dict[str, Any]:
        return {"event": type(self).__name__, **asdict(self)}


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Analyzing(Event):
    """The source can be opened and is about to be read. `run`: what this run is called from here on."""

    source: str
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Analyzed(Event):
    """What the source holds. `size` in bytes; `left_out`: name, rows and why of each table not migrated."""

    source: str
    size: int
    nodes: int
    edges: int
    turns: int
    layers: Mapping[str, int]
    left_out: Sequence[tuple[str, int | None, str]]


@dataclass(frozen=True)
class Planned(Event):
    """How the run will go. `total_batches`: of nodes, as far as can be foreseen.

    `defaults`: column, default and number of nodes that SQLite has no value for. `embeddings`: how many are converted,
    by how they are stored; `unknown`: how many are set aside, for their numbers make no sense.
    """

    batch_size: int
    total_batches: int
    plan: Mapping[str, Any]
    defaults: Sequence[tuple[str, Default, int]] = ()
    embeddings: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0


@dataclass(frozen=True)
class EngineChosen(Event):
    """With what the target is written. `readers`: whose engines have to open it; `unusable`: what else was found.

    `warnings`: readers that open it, and will fail by themselves.
    """

    engine: str
    storage_version: int
    why: str
    readers: Sequence[str]
    unusable: Sequence[str]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class ReaderChecked(Event):
    """The agent's own interpreter opened what is about to be published, and counted the same."""

    reader: str
    nodes: int


@dataclass(frozen=True)
class Started(Event):
    """The lock is taken and nothing speaks against writing. `found`: rows that an earlier run left counted."""

    log_file: str
    staging: str
    found: Mapping[str, int]
    start_offset: int


@dataclass(frozen=True)
class BatchLoaded(Event):
    """A worker put a batch into the target and ended well. The next process counts it.

    `bytes`: of the batch's rows in the source; `peak_rss`: bytes of memory that the worker took.
    """

    table: str
    number: int
    total: int
    rows: int
    done: int
    of: int
    eta_s: float
    seconds: float
    bytes: int = 0
    peak_rss: int = 0


@dataclass(frozen=True)
class BatchFailed(Event):
    """A worker ended without having done its job."""

    attempt: int
    attempts: int
    message: str
    delay_s: float | None  # until the next try; None: there is none
    offset: int  # rows of this table that were counted before
    stack: str = ""


@dataclass(frozen=True)
class BatchRecovered(Event):
    """A batch went through after failures."""

    attempt: int


@dataclass(frozen=True)
class BatchLost(Event):
    """A batch that a worker reported was not there when the next process counted."""

    table: str
    expected: int
    counted: int


@dataclass(frozen=True)
class EngineComplained(Event):
    """The engine reported an error after it had written; the next process counts what arrived."""

    message: str


@dataclass(frozen=True)
class PoolRaised(Event):
    """The engine's pool was too small; the next worker has one of `pool` bytes."""

    pool: int


@dataclass(frozen=True)
class Isolating(Event):
    """A batch failed in every try: the rows that cause it are looked for, in a file that is thrown away."""

    table: str
    rows: int
    message: str


@dataclass(frozen=True)
class Isolated(Event):
    """Something takes down every worker that loads it, and goes to quarantine. `attempts`: how many it took down.

    `part`: the column of the value that does, `row` where it is no single one.
    """

    table: str
    id: int
    reason: str
    attempts: int
    part: str = "row"


@dataclass(frozen=True)
class SetAside(Event):
    """What made the unfinished target useless was given another name. `whole`: the target itself."""

    files: Sequence[str]
    message: str
    whole: bool


@dataclass(frozen=True)
class Salvaged(Event):
    """Pages of the source are damaged; `lost`: by table, the id ranges (first, last) that cannot be read."""

    damage: Sequence[str]
    rows: Mapping[str, int]
    lost: Mapping[str, Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Paused(Event):
    """Nothing more is begun until `command`, or what does the same, takes the pause away."""

    command: str


@dataclass(frozen=True)
class Resumed(Event):
    """The pause is over."""


@dataclass(frozen=True)
class TableLoaded(Event):
    """All batches of a table are through."""

    table: str
    rows: int
    of: int


@dataclass(frozen=True)
class Compacted(Event):
    """The file was copied without its holes. Sizes in bytes."""

    before: int
    after: int


@dataclass(frozen=True)
class NotCompacted(Event):
    """The file keeps its holes; it is complete all the same. `command`: what would do it with more room."""

    why: str
    command: str = ""


@dataclass(frozen=True)
class Indexed(Event):
    """The vector index is made, and answers."""


@dataclass(frozen=True)
class NotIndexed(Event):
    """The target has no vector index; it is complete all the same. `command`: what makes one later."""

    why: str
    command: str


@dataclass(frozen=True)
class Verifying(Event):
    """Comparison begins, at the level given."""

    level: str


@dataclass(frozen=True)
class WrittenAgain(Event):
    """Values came back otherwise than they were written, and SQLite did not change them; they are written again."""

    values: int
    examples: Sequence[str]


@dataclass(frozen=True)
class Refused(Event):
    """A value, or a whole row, never comes back as it is written, and goes to quarantine. `part`: as in its entry."""

    table: str
    id: int
    part: str
    reason: str


@dataclass(frozen=True)
class Verified(Event):
    """The target holds what the source holds. `refreshed`: rows brought up to date since they were copied."""

    compared: Mapping[str, int]
    refreshed: int
    removed: int
    seconds: float


@dataclass(frozen=True)
class Quarantined(Event):
    """Rows, or parts of them, that have no place in the target, and ranges of ids that cannot be read.

    `converted`: by table and part, how many were converted to what is nearest.
    """

    file: str
    rows: int
    parts: int
    ranges: int
    examples: Sequence[str]
    converted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LateArrivals(Event):
    """Rows that reached the source after the run's bound was taken."""

    rows: int


@dataclass(frozen=True)
class BroughtAlong(Event):
    """What the target before alone held is in the new one.

    `brought`: numbers by table, with `values` for changed ones and `removed` for what the agent took out;
    `left_behind`: what the backup alone holds then: rows that left SQLite, by table, and columns with no place;
    `put_back`: rows of SQLite's that were missing there, and too many to be taken for the agent's removals;
    `ids`: rows of SQLite's, by table, that have another id than in SQLite: the one that they had there.
    """

    brought: Mapping[str, int]
    left_behind: Mapping[str, int]
    put_back: Mapping[str, int] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NotBroughtAlong(Event):
    """A file that gave way was not read, or is of another memory: what it alone holds is in its backup only."""

    target: str
    why: str


@dataclass(frozen=True)
class Published(Event):
    """The final name exists. `backup`: what the file in the way is called now."""

    target: str
    size: int
    backup: str | None


@dataclass(frozen=True)
class Named(Event):
    """Names of a finished target that were missing are made: links to it."""

    names: Sequence[str]
    target: str


@dataclass(frozen=True)
class NotNamed(Event):
    """A further name cannot be made, as on a file system without links; the target is complete without it."""

    name: str
    target: str
    why: str


@dataclass(frozen=True)
class GaveWay(Event):
    """A file that nothing is lost with stood at a name of the target, and is called `backup` now."""

    path: str
    why: str
    backup: str


@dataclass(frozen=True)
class PutBack(Event):
    """The target stood by another of its names, and has its own again."""

    target: str
    found: str


@dataclass(frozen=True)
class HookRan(Event):
    """A command of the settings was run. `code`: its exit status; None where it has none, and `why`."""

    hook: str
    code: int | None
    why: str
    output: str
    seconds: float


@dataclass(frozen=True)
class DryRun(Event):
    """What a real run would do, every row having been read and converted."""

    target: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class NothingToDo(Event):
    """The run ends at once, for a good reason. `late`: rows of the source that the target does not have."""

    why: str
    late: int = 0


@dataclass(frozen=True)
class Finished(Event):
    """The last event of a run that reached its end."""

    result: Result

    def to_json(self) -> dict[str, Any]:
        result = self.result
        return {**super().to_json(), "exit_code": int(result.exit_code), "success_rate": result.success_rate}
