"""Whether SQLite is the memory that a target was made from, judged by its rows and not by its place.

Cards are cloned, folders copied, homes renamed, backups put back. Path, inode and device only tell when there is no
need to look. Where they differ, a worker holds SQLite's rows against the ledger (`worker/identity/recognize.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimad.source.schema import NODES, TARGET_TABLES
from nimad.source.sqlite_file import Identity, SourceFile
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.supervisor import worker_failure
from nimad.supervisor.outcome import WorkerResult
from nimad.supervisor.plan import CHUNK_BYTES, CHUNK_ROWS
from nimad.worker.protocol import Job, Task

#: Of the rows that both have, the share that may be others': an agent that goes on from a backup gives ids anew.
OTHERS = 0.1

Ask = Callable[[Job], WorkerResult]


@dataclass(frozen=True)
class IdentityCheck:
    """What was found. `why`: why it is another memory, empty where it is the same.

    `told`: whether anything tells of its rows; if not, it counts as another one.
    """

    source: Path
    noted: Identity
    now: Identity
    why: str = ""
    told: bool = True

    @property
    def moved(self) -> bool:
        """Whether it is the same memory at another place."""
        return not self.why and self.now.is_elsewhere(self.noted)


def check_identity(made: Mapping[str, Any], source: SourceFile, ledger: Path, ask: Ask) -> IdentityCheck | None:
    """Look whether `source` is what `made` was read from; None where no file tells of a source.

    `ask` gives a job the schema and its limits, and has it done. Raises the error of a worker that could not look.
    """
    noted, now = target_state.identity_of(made), source.identity()
    if noted is None:
        return None
    found = IdentityCheck(source.path, noted, now)
    if now.is_certain(noted) or made.get("published", {}).get(TARGET_TABLES[NODES]) == 0:
        return found
    job = Job(
        task=Task.RECOGNIZE,
        source=str(source.path),
        ledger=str(ledger),
        chunk_rows=CHUNK_ROWS,
        chunk_bytes=CHUNK_BYTES,
    )
    answer = ask(job)
    if not answer.ok:
        raise worker_failure.error_of(answer)
    return IdentityCheck(source.path, noted, now, _difference(source.path, noted, answer), bool(answer.facts["noted"]))


def _difference(source: Path, noted: Identity, answer: WorkerResult) -> str:
    """Why the rows are another memory's; empty where they are not."""
    rows, same, others = (int(answer.facts[name]) for name in ("noted", "same", "others"))
    was = "the file that was there" if str(source.resolve()) == noted.path else noted.path
    if not rows:
        return f"{source} is not {was}, and nothing is noted of its rows"
    if not same and not others:
        return f"{source} is not {was}: it has none of its {rows} rows"
    if others <= OTHERS * same:
        return ""
    named = ", ".join(f"{table} id {key}" for table, key in answer.facts["named"])
    more = f", and {others - len(answer.facts['named'])} more" if others > len(answer.facts["named"]) else ""
    return f"{source} is not {was}: {others} of {same + others} rows are other memories ({named}{more})"


def note(files: Files, made: Mapping[str, Any], found: IdentityCheck) -> Mapping[str, Any]:
    """Note where the memory of a finished target is now, or that what is there is another; return its state then."""
    place = found.now.to_json()
    wanted: dict[str, Any] = {"another": {"source": place, "why": found.why} if found.why else {}}
    if not found.why and not found.now.is_certain(found.noted):
        wanted["source"] = place
    facts = {name: value for name, value in wanted.items() if made.get(name, {}) != value}
    return target_state.note(files, made, facts) if facts else made


def remark(source: Path, files: Files) -> tuple[str, str]:
    """What the state file tells of a source that is not the file that was read: what is to be known, what is wrong."""
    made = target_state.of_target(files)
    noted, another = target_state.identity_of(made), made.get("another")
    try:
        now = SourceFile(source).identity()
    except OSError:
        return "", ""
    if another and target_state.identity_of(another) == now:
        return "", f"{another.get('why')}; late arrivals wait"
    if noted is None or now.is_certain(noted) or not now.is_elsewhere(noted):
        return "", ""
    was = "another file than was read last" if now.path == noted.path else f"not {noted.path}, which was read last"
    return f"{source} is {was}; the next look compares their rows, and goes on where they are the same", ""
