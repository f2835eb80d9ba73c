"""What the agent can be told to do. Both processes have these classes; between them a step is one JSON line.

A memory is named by its turn and layer, because each side has ids of its own.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

LAYERS = ("input", "contemplation", "output")

#: Turn and layer. A memory without a turn has "" and its text.
Key = tuple[str, str]

#: The columns of a memory that both sides have; not what each gives by itself, as its id.
COLUMNS = (
    *("timestamp", "layer", "text", "summary", "who", "affect_json", "session_key", "conversation_id", "turn_id"),
    *("fe_score", "embedding", "strength", "decay_rate", "last_accessed", "is_ghost", "dismissal_count"),
)

SQLITE, LADYBUG, BOTH = "sqlite", "ladybug", "both"


@dataclass(frozen=True)
class Store:
    """Store a turn of three memories: in SQLite whole and in one transaction, in LadybugDB cut and statement by
    statement. With `SQLITE` the second process had failed; with `LADYBUG` the turn is LadybugDB's alone.
    """

    turn: str
    at: int  # milliseconds since the epoch; also the id of the turn in LadybugDB
    texts: tuple[str, str, str] = ("a question", "a thought", "an answer")
    summaries: tuple[str, str, str] = ("question", "thought", "answer")
    who: str = "owner"
    affect: str = ""
    side: str = BOTH


@dataclass(frozen=True)
class Recall:
    """Recall memories, which reinforces them. Releases before 3.1 also note the moment, later ones do not."""

    memories: tuple[Key, ...]
    at: int
    notes_access: bool = True
    side: str = LADYBUG


@dataclass(frozen=True)
class Prune:
    """Mark memories as ghosts, and count the dismissal; one that is a ghost already stays as it is."""

    memories: tuple[Key, ...]
    side: str = LADYBUG


@dataclass(frozen=True)
class Merge:
    """Merge a cluster in LadybugDB: the survivor takes a part of the others' strength, and they become ghosts."""

    survivor: Key
    others: tuple[Key, ...]
    at: int


@dataclass(frozen=True)
class Capture:
    """Store the result of another agent: one memory without a turn, in LadybugDB alone."""

    text: str
    at: int
    name: str = "helper"


@dataclass(frozen=True)
class Dream:
    """Write an insight, a pattern and a dream. Answers how many of LadybugDB's three were lost for want of a table."""

    name: str
    side: str = BOTH


@dataclass(frozen=True)
class Backfill:
    """Give every memory without an embedding one; in SQLite the column is added where it is missing."""

    dimension: int
    side: str = SQLITE


@dataclass(frozen=True)
class Edit:
    """Replace a text in SQLite, as an owner's script would."""

    memory: Key
    text: str


@dataclass(frozen=True)
class Forget:
    """Delete memories from SQLite, with their edges and turns, as an owner's script would."""

    memories: tuple[Key, ...]


@dataclass(frozen=True)
class Visible:
    """Answer the turn and layer of each memory that passes the readers' filter, text in place of a missing turn."""


@dataclass(frozen=True)
class Search:
    """Answer the texts that a recall of a word finds, the oldest first."""

    word: str
    since: int = 0


@dataclass(frozen=True)
class Hold:
    """Open LadybugDB, say so, and keep it open until the next line comes."""


Step = Store | Recall | Prune | Merge | Capture | Dream | Backfill | Edit | Forget | Visible | Search | Hold
KINDS = {kind.__name__: kind for kind in Step.__args__}


def to_json(step: Step, die_after: int | None = None) -> str:
    """One line. `die_after`: statements after which the process kills itself."""
    return json.dumps({"do": type(step).__name__, "die_after": die_after, **dataclasses.asdict(step)})


def from_json(line: str) -> tuple[Step, int | None]:
    words = json.loads(line)
    kind, die_after = KINDS[words.pop("do")], words.pop("die_after")
    step: Step = kind(**{name: _frozen(value) for name, value in words.items()})
    return step, die_after


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Answer:
    """How a step ended. `value`: what it found, or the memories as LadybugDB has them after it; `error`: why not."""

    ok: bool
    value: Any = None
    error: str = ""

    @classmethod
    def read(cls, line: str) -> "Answer":
        return cls(**json.loads(line))

    @property
    def lost_the_race(self) -> bool:
        """Whether another process had the database open."""
        return "lock" in self.error.lower()
