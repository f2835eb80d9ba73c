"""What every step of one run shares."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nimad.config import Settings
from nimad.errors import SourceError
from nimad.migration.child import Workers
from nimad.migration.events import Listener
from nimad.migration.files import Files
from nimad.migration.plan import Plan
from nimad.migration.state import State
from nimad.source.file import SourceFile
from nimad.source.schema import NODES, quoted
from nimad.source.survey import Survey
from nimad.worker.job import Job, Task


@dataclass
class Context:
    """One run: what it was asked, what it knows, and how far it is."""

    settings: Settings
    source: SourceFile
    survey: Survey
    plan: Plan
    files: Files
    workers: Workers
    listener: Listener
    state: State
    counted: dict[str, int] = field(default_factory=dict)  # rows that the latest count found, by target table
    last_keys: dict[str, int] = field(default_factory=dict)  # highest key of each, when the run began
    redone: set[str] = field(default_factory=set)  # tables to judge anew: some of their rows are in quarantine
    confirmed: set[str] = field(default_factory=set)  # lines of the quarantine that this run gave a reason for
    free_bytes: int = 0  # of the staging file, in pages that hold nothing
    began: float = field(default_factory=time.monotonic)
    batches: int = 0
    batch_s: float = 0.0

    def job(self, task: Task, **facts: Any) -> Job:
        """A job on this run's source and staging file within the plan's limits."""
        self.check_source()
        return Job(
            task=task,
            **{
                "source": str(self.source.path),
                "target": str(self.files.staging),
                "schema": self.survey.schema,
                "pool_bytes": self.plan.pool_bytes,
                "address_space_bytes": self.plan.address_space_bytes,
                "threads": self.plan.threads,
                "ledger": str(self.files.ledger),
                "quarantine": str(self.files.quarantining),
                "strict": self.settings.strict,
                "chunk_rows": self.plan.chunk_rows,
                "chunk_bytes": self.plan.chunk_bytes,
                **facts,
            },
        )

    def check_source(self) -> None:
        """Raise `SourceError` when the file this run began with is no longer the one of that name."""
        if not self.source.path.exists() or self.source.identity() != self.survey.identity:
            raise SourceError(
                f"{self.source.path} was replaced or taken away during the run, so nothing is published; put it back "
                "and run again, or begin anew with --restart"
            )

    def bounds(self) -> dict[str, int]:
        """The highest key of each table when the run began."""
        return {name: table.last for name, table in self.survey.tables.items() if table.last is not None}

    def note_counts(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.counted = {name: count["rows"] for name, count in counts.items()}

    def nodes_above(self, bound: int) -> int:
        """Nodes that reached the source with a higher key than `bound`."""
        key = quoted(self.survey.schema.nodes.key)
        query = f"SELECT count(*) FROM {quoted(NODES)} WHERE typeof({key}) = 'integer' AND {key} > ?"
        return self.source.number(query, bound)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what goes on in the state file, and clock it there."""
        self.state.phase = name
        self.state.write()
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self.state.phases_s.get(name, 0.0) + time.monotonic() - began
            self.state.phases_s[name] = spent
