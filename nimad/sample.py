"""A NIMA memory in SQLite as it is met in the field, made up from a seed: for the demo, tests and benchmarks.

The same ``Sample`` gives the same rows on every machine and Python. That rests on three habits: no clock, no
function of the C mathematics library except the exactly rounded square root, and no ``sum`` over floats (its
result changed in Python 3.12).
"""

import json
import math
import os
import shlex
import sqlite3
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from nimad.errors import CannotWriteError, NimadError, UsageError

SHAPES = ("1.0", "2.0", "2.2", "3.0", "3.1")

#: One real memory (NIMA.md); samples of other sizes keep its proportions.
REAL_LAYERS = {"contemplation": 3_364, "input": 3_082, "output": 1_859, "legacy_vsa": 1_465}
REAL_NODES = 9_770
REAL_TURNS = 5_802
REAL_EDGES = 6_333

DAY_MS = 86_400_000
END_MS = int(datetime(2026, 3, 31, tzinfo=UTC).timestamp()) * 1_000  #: No sample turn begins later, in ms.
TURN_DAYS = 180  #: Turns are spread over the days up to ``END_MS`` …
LEGACY_DAYS = 90  #: … and the rows imported from the older store over the days before those.

TURNS_IN_CONVERSATION = 12
SUMMARY_CHARACTERS = 300
TURN_TEXT_CHARACTERS = (1_800, 5_300)
LEGACY_TEXT_CHARACTERS = (4_000, 5_400)
SENTENCES_PER_TOPIC = 600
SENTENCE_CHARACTERS = 60  #: Fewer than a sentence has on average, so that a text never runs short.

NOISE_FLOATS = 1 << 18
NOISE_STEP = 100_003  #: Odd, so no two of the first ``NOISE_FLOATS`` nodes share a stretch of noise.
TOPIC_SHARE = 0.72  #: Of a vector's squared length; the rest is noise. Same-topic cosines come near this.

AGENT = "Ember"
PEOPLE = ("Maya", "Jonas", "Priya", "Zoë", "Tomás", "Ingrid", "Wei")
AFFECTS = ("SEEKING", "CARE", "PLAY", "FEAR", "RAGE", "PANIC")

#: Topic: its nouns. A topic has its own sentences and its own centre among the embeddings.
_TOPIC_LINES = """
garden: seedling compost trellis orchard greenhouse hedge tomato frost blossom soil beehive
kitchen: sourdough oven recipe saffron dumpling pantry kettle marinade whisk broth cinnamon
music: melody cello chord rehearsal tempo chorus metronome ballad fiddle overture rhythm harmony
travel: itinerary passport ferry hostel timetable luggage border lighthouse compass map visa
code: compiler branch function bug deployment refactor cache parser thread exception commit
database: index query schema migration backup transaction replica checksum table snapshot cursor
health: appointment allergy physiotherapy vitamin sleep pulse doctor bandage vaccine migraine
family: grandmother birthday cousin photograph wedding nephew letter heirloom reunion cradle
money: invoice budget receipt mortgage savings insurance refund salary deadline pension ledger
weather: thunderstorm drizzle forecast sunrise fog blizzard breeze humidity rainbow heatwave
books: novel chapter library bookmark author metaphor essay footnote manuscript sonnet archive
astronomy: telescope nebula eclipse orbit comet meteor galaxy crater satellite constellation
bicycle: chain saddle puncture brake gear pannier helmet spoke derailleur tyre handlebar bell
school: homework algebra teacher exam classroom tutor lecture notebook syllabus semester
dreams: corridor staircase mirror ocean doorway lantern labyrinth feather whisper island bridge
pets: kitten terrier leash aquarium parrot whisker kennel veterinarian hamster tortoise collar
"""
TOPICS = {line.split(": ")[0]: line.split(": ")[1].split() for line in _TOPIC_LINES.strip().split("\n")}
_VERBS = """
described repaired remembered questioned borrowed planned finished rewrote measured forgot praised
compared postponed explained carried noticed sketched protected imagined counted sorted delayed promised
shared replaced discovered examined trusted recorded simplified rescued tested admired avoided rebuilt
"""
_ADJECTIVES = """
quiet broken second patient golden awkward familiar hidden early stubborn gentle careful enormous fragile
honest sudden ordinary missing clever distant crooked faithful hollow nervous polished recent silver
tangled unfinished warm curious blue narrow promising reluctant
"""
_OPENINGS = """
This morning|After a long pause|Without being asked|Once again|Late at night|For the third time|Before lunch
In the end|To nobody's surprise|On the way home|Two weeks ago|With some relief|Rather quickly|At first
"""
_ENDINGS = """
because the plan had changed|and asked to be reminded on Friday|although nobody had expected it
which felt lighter than before|so the next step is clear|but one detail is still open|as agreed last time
and that seemed to matter a great deal|while the others waited outside|and then laughed about it
though the reason was never given|until everything fitted together|which is worth keeping in mind
"""
_RARE = """
That made everyone smile 🙂.|“Naïve”, she called it, but the café at the corner agreed.
It's 'good enough', he said; "good enough" it stayed.|Good luck from the whole team 👍🏽🎉.
Zoë answered: ça va très bien, merci.|明日もよろしくお願いします was written on the note.
The total came to 42,50 € — half of what we feared.|Schöne Grüße aus Köln stood on the card.
"""

_NODES_1_0 = """CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER,
    layer TEXT CHECK (layer IN ('input', 'contemplation', 'output', 'legacy_vsa')),
    text TEXT, summary TEXT, who TEXT, affect_json TEXT, session_key TEXT, conversation_id TEXT, turn_id TEXT,
    created_at TEXT DEFAULT (datetime('now')))"""
_NODES_3_0 = """CREATE TABLE memory_nodes (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp INTEGER,
    layer TEXT, text TEXT, summary TEXT, who TEXT, affect_json TEXT, session_key TEXT,
    conversation_id TEXT, turn_id TEXT,
    fe_score REAL DEFAULT 0.5, embedding BLOB, strength REAL DEFAULT 1.0, decay_rate REAL DEFAULT 0.01,
    last_accessed INTEGER, is_ghost INTEGER DEFAULT 0, dismissal_count INTEGER DEFAULT 0,
    created_at TEXT DEFAULT (datetime('now')))"""
_EDGES = """CREATE TABLE memory_edges (id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER, target_id INTEGER, relation TEXT, weight REAL{})"""
_TURNS = """CREATE TABLE memory_turns (id INTEGER PRIMARY KEY AUTOINCREMENT, turn_id TEXT UNIQUE,
    input_node_id INTEGER, contemplation_node_id INTEGER, output_node_id INTEGER,
    timestamp INTEGER, affect_json TEXT{})"""
_CREATED_AT = ", created_at TEXT DEFAULT (datetime('now'))"
_FULL_TEXT_INDEX = """CREATE VIRTUAL TABLE memory_fts
    USING fts5 (text, summary, who, layer, content='memory_nodes', content_rowid='id')"""

#: Release → the columns that its ``ALTER TABLE`` put behind those of the first ``CREATE``, as SQL.
_ADDED_COLUMNS = {
    "2.0": "fe_score REAL DEFAULT 0.5",
    "2.2": "embedding BLOB, strength REAL DEFAULT 1.0, decay_rate REAL DEFAULT 0.01, last_accessed INTEGER, "
    "is_ghost INTEGER DEFAULT 0, dismissal_count INTEGER DEFAULT 0",
    "3.1": "themes TEXT",
}
_TABLES_3_1 = """
nima_insights (id TEXT PRIMARY KEY, content TEXT, type TEXT, confidence REAL, sources TEXT, domains TEXT,
    timestamp TEXT, importance REAL, validated INTEGER);
nima_patterns (id TEXT PRIMARY KEY, name TEXT, description TEXT, occurrences INTEGER, domains TEXT,
    examples TEXT, first_seen TEXT, last_seen TEXT, strength REAL);
nima_dream_runs (id TEXT PRIMARY KEY, date TEXT, narrative TEXT, source_count INTEGER, created_at TEXT);
nima_suppressed_memories (memory_id INTEGER PRIMARY KEY, reason TEXT, suppressed_at TEXT);
nima_pruner_runs (id INTEGER PRIMARY KEY, started_at TEXT, examined INTEGER, suppressed INTEGER);
nima_lucid_moments (id INTEGER PRIMARY KEY, memory_id INTEGER, message TEXT, delivered_at TEXT)
"""

_Row = dict[str, Any]  # column → value; a shape without the column leaves the value out


def _check_shape(shape: str) -> None:
    if shape not in SHAPES:
        raise UsageError(f"NIMA has no schema shape {shape!r}: choose one of {', '.join(SHAPES)}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What to make. The default is as large as the real memory that NIMA.md counts.

    ``dimension`` is floats per embedding; ``embedded_share`` (0 to 1) is the share of nodes that have one, in
    shapes that know embeddings at all.
    """

    nodes: int = REAL_NODES
    seed: int = 1
    shape: str = "3.1"
    dimension: int = 384
    full_text_index: bool = True
    embedded_share: float = 1.0

    def __post_init__(self) -> None:
        _check_shape(self.shape)
        if self.nodes < 0 or self.dimension < 1 or not 0 <= self.embedded_share <= 1:
            raise UsageError(
                "a sample needs nodes >= 0, dimension >= 1 and embedded_share within 0 to 1, "
                f"not {self.nodes}, {self.dimension} and {self.embedded_share}"
            )

    @property
    def turns(self) -> int:
        return round(self.nodes * REAL_TURNS / REAL_NODES)

    @property
    def edges(self) -> int:
        return round(self.nodes * REAL_EDGES / REAL_NODES)


DEFAULT_SAMPLE = Sample()


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """What was written: rows per table, and the size of the file in bytes."""

    nodes: int
    edges: int
    turns: int
    bytes: int


class _Turn(NamedTuple):
    number: int
    timestamp: int
    input_id: int | None
    contemplation_id: int | None
    output_id: int | None

    @property
    def turn_id(self) -> str:
        return f"turn_{self.timestamp}_{self.number:06d}"

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """The layer and id of each node of the turn, in the order in which they arose."""
        ids = (self.input_id, self.contemplation_id, self.output_id)
        layers = zip(("input", "contemplation", "output"), ids, strict=True)
        return [(layer, node_id) for layer, node_id in layers if node_id is not None]


class _Plan(NamedTuple):
    legacy_ids: list[int]
    turns: list[_Turn]


def write_sample(path: Path, sample: Sample = DEFAULT_SAMPLE) -> SampleCounts:
    """Write a NIMA memory to ``path``, which must not exist; it appears there only when it is complete."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already: name another file")
    part, folder = path.with_name(f".{path.name}.{os.getpid()}.part"), shlex.quote(str(path.parent))
    try:
        part.unlink(missing_ok=True)
        counts = _fill(part, sample)
        part.rename(path)
    except (OSError, sqlite3.Error) as error:
        if not path.parent.exists():
            raise CannotWriteError(f"there is no folder {path.parent}; make it with: mkdir -p {folder}") from error
        raise CannotWriteError(f"{path} cannot be written ({error}); see: df -h {folder}") from error
    finally:
        with suppress(OSError):  # the error above says more
            part.unlink()
    return counts


def _fill(part: Path, sample: Sample) -> SampleCounts:
    connection = sqlite3.connect(part, isolation_level=None)
    try:
        # A half-written sample is thrown away, so it needs no journal; WAL is only what readers will meet.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        create_schema(connection, sample.shape)
        plan = _plan(sample)
        nodes = _insert(connection, "memory_nodes", _nodes(sample, plan))
        edges = _insert(connection, "memory_edges", _edges(sample, plan))
        turns = _insert(connection, "memory_turns", _turn_rows(sample, plan))
        if sample.shape == "3.1":
            _insert_3_1(connection, sample, plan)
        if sample.full_text_index:
            _index_texts(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    return SampleCounts(nodes=nodes, edges=edges, turns=turns, bytes=part.stat().st_size)


def create_schema(connection: sqlite3.Connection, shape: str) -> None:
    """Create the empty tables as release ``shape`` leaves them, without the full-text index."""
    _check_shape(shape)
    fresh = shape >= "3.0"
    connection.execute(_NODES_3_0 if fresh else _NODES_1_0)
    connection.execute(_EDGES.format(_CREATED_AT if fresh else ""))
    connection.execute(_TURNS.format(_CREATED_AT if fresh else ""))
    for release, columns in _ADDED_COLUMNS.items():
        if release <= shape and (release > "3.0" or not fresh):
            for column in columns.split(", "):
                connection.execute(f"ALTER TABLE memory_nodes ADD COLUMN {column}")
    if shape == "3.1":
        for table in _TABLES_3_1.split(";"):
            connection.execute(f"CREATE TABLE {table}")


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[_Row]) -> int:
    """Insert those values of each row that ``table`` has a column for; return the number of rows."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"
    return connection.executemany(statement, rows).rowcount


def _index_texts(connection: sqlite3.Connection) -> None:
    try:
        connection.execute(_FULL_TEXT_INDEX)
    except sqlite3.OperationalError as error:
        raise NimadError(
            f"the SQLite {sqlite3.sqlite_version} of this Python cannot make memory_fts ({error}): "
            "use a Python whose SQLite has FTS5, or ask for a sample with full_text_index=False"
        ) from error
    connection.execute("INSERT INTO memory_fts (memory_fts) VALUES ('rebuild')")


def layer_counts(nodes: int) -> dict[str, int]:
    """Split ``nodes`` among the layers as in the real memory; the largest remainders get the rest."""
    counts = {layer: nodes * real // REAL_NODES for layer, real in REAL_LAYERS.items()}
    by_remainder = sorted(REAL_LAYERS, key=lambda layer: -(nodes * REAL_LAYERS[layer] % REAL_NODES))
    for layer in by_remainder[: nodes - sum(counts.values())]:
        counts[layer] += 1
    return counts


def _plan(sample: Sample) -> _Plan:
    """Give each node its id, with gaps, and each turn its time and its nodes, before any row is made."""
    rng = _rng(sample, "plan")
    counts = layer_counts(sample.nodes)
    ids = _ids(rng)
    legacy = list(islice(ids, counts["legacy_vsa"]))
    inputs, thoughts, outputs = counts["input"], counts["contemplation"], counts["output"]
    # Inputs fill the first places, thoughts the last ones, so every turn has a node and some have both.
    places = list(range(sample.turns))
    rng.shuffle(places)
    turns = []
    for number, place in enumerate(places):
        slot = TURN_DAYS * DAY_MS // len(places)
        start = END_MS - TURN_DAYS * DAY_MS + number * slot + rng.randrange(max(1, slot * 2 // 3))
        input_id = next(ids) if place < inputs else None
        thought_id = next(ids) if place >= len(places) - thoughts else None
        # Answers go first to turns with both (they stand at the end of the inputs), then to those before.
        output_id = next(ids) if inputs - outputs <= place < inputs else None
        turns.append(_Turn(number, start, input_id, thought_id, output_id))
    return _Plan(legacy, turns)


def _rng(sample: Sample, purpose: str) -> Random:
    """Return numbers of their own for each purpose, so that rows do not depend on the shape."""
    return Random(f"{sample.seed}/{purpose}")


def _ids(rng: Random) -> Iterator[int]:
    """Yield rising ids; one row in fifty has been deleted since."""
    node_id = 0
    while True:
        node_id += rng.randrange(2, 5) if _chance(rng, 0.02) else 1
        yield node_id


def _chance(rng: Random, share: float) -> bool:
    return rng.random() < share


def _nodes(sample: Sample, plan: _Plan) -> Iterator[_Row]:
    """Yield the imported rows and then the nodes of each turn, ids rising."""
    rng = _rng(sample, "nodes")
    sentences = _sentences(sample)
    embed = _embedder(sample)
    begin = END_MS - (TURN_DAYS + LEGACY_DAYS) * DAY_MS
    for position, node_id in enumerate(plan.legacy_ids):
        topic = rng.choice(list(TOPICS))
        timestamp = begin + LEGACY_DAYS * DAY_MS * position // len(plan.legacy_ids)
        node = _node(rng, node_id, timestamp, layer="legacy_vsa", topic=topic, sentences=sentences[topic])
        _age(rng, node, 0.4)
        yield node | {"embedding": embed(topic), "conversation_id": None, "turn_id": None}
    for turn in plan.turns:
        talk = _rng(sample, f"conversation {turn.number // TURNS_IN_CONVERSATION}")
        topic, person, conversation = talk.choice(list(TOPICS)), talk.choice(PEOPLE), talk.getrandbits(64)
        timestamp = turn.timestamp
        for layer, node_id in turn.nodes:
            node = _node(rng, node_id, timestamp, layer=layer, topic=topic, sentences=sentences[topic])
            node["who"] = person if layer == "input" else AGENT
            node["session_key"] = f"agent:main:telegram:{person.lower()}"
            node["conversation_id"] = f"conv_{conversation:016x}"
            _age(rng, node, 0.15 if turn.number < len(plan.turns) // 8 else 0)
            yield node | {"embedding": embed(topic), "turn_id": turn.turn_id}
            timestamp += rng.randrange(1_500, 20_000)


def _node(rng: Random, node_id: int, timestamp: int, *, layer: str, topic: str, sentences: list[str]) -> _Row:
    limits = LEGACY_TEXT_CHARACTERS if layer == "legacy_vsa" else TURN_TEXT_CHARACTERS
    return {
        "id": node_id,
        "timestamp": timestamp,
        "layer": layer,
        "text": _text(rng, node_id, timestamp, sentences, limits),
        "summary": "".join(rng.choices(sentences, k=3))[:SUMMARY_CHARACTERS].strip(),
        "who": rng.choice(PEOPLE),
        "affect_json": _affect(rng),
        "session_key": "agent:main:main",
        "created_at": _written(timestamp),
        "fe_score": _share(rng),
        "strength": _share(rng),
        "decay_rate": rng.choice((0.005, 0.01, 0.01, 0.02)),
        "last_accessed": rng.randrange(timestamp, END_MS + DAY_MS) if _chance(rng, 0.4) else None,
        "is_ghost": int(_chance(rng, 0.01)),
        "dismissal_count": rng.choice((1, 2, 5)) if _chance(rng, 0.04) else 0,
        "themes": json.dumps([topic, rng.choice(TOPICS[topic])]) if _chance(rng, 0.7) else None,
    }


def _age(rng: Random, node: _Row, share: float) -> None:
    """Empty two fields that early releases did not always fill, in ``share`` of the rows."""
    if _chance(rng, share):
        fields = ("summary", "who", "affect_json", "session_key", "conversation_id", "created_at")
        node.update(dict.fromkeys(rng.choices(fields, k=2)))


def _share(rng: Random) -> float:
    return rng.randrange(1_001) / 1_000


def _affect(rng: Random) -> str:
    return json.dumps({name: _share(rng) for name in rng.choices(AFFECTS, k=3)})


def _written(timestamp_ms: int) -> str:
    """Return the moment as SQLite's ``datetime('now')`` writes it."""
    return datetime.fromtimestamp(timestamp_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _sentences(sample: Sample) -> dict[str, list[str]]:
    """Return each topic's sentences; each ends with the space or the line breaks that follow it."""
    rng = _rng(sample, "sentences")
    return {topic: [_sentence(rng, nouns) for _ in range(SENTENCES_PER_TOPIC)] for topic, nouns in TOPICS.items()}


def _sentence(rng: Random, nouns: list[str]) -> str:
    after = "\n\n" if _chance(rng, 0.12) else " "
    if _chance(rng, 0.03):
        return rng.choice(_phrases(_RARE)) + after
    who, verb, adjective = rng.choice(PEOPLE), rng.choice(_VERBS.split()), rng.choice(_ADJECTIVES.split())
    opening, ending = rng.choice(_phrases(_OPENINGS)), rng.choice(_phrases(_ENDINGS))
    one, other = rng.sample(nouns, 2)
    forms = (
        f"{opening} {who} {verb} the {adjective} {one} {ending}.",
        f"{who} {verb} the {one} and the {adjective} {other} {ending}.",
        f"{opening} the {adjective} {one} was next to the {other}, {ending}.",
    )
    return rng.choice(forms) + after


def _phrases(lines: str) -> list[str]:
    return lines.strip().replace("\n", "|").split("|")


def _text(rng: Random, node_id: int, timestamp: int, sentences: list[str], limits: tuple[int, int]) -> str:
    """Return whole sentences of at most ``limits`` characters, the first of which no other row has."""
    most = rng.randrange(*limits)
    text = f"Entry {node_id} of {_written(timestamp)[:10]}. "
    text += "".join(rng.choices(sentences, k=most // SENTENCE_CHARACTERS + 4))
    return text[: text.rfind(".", 0, most) + 1]


def _embedder(sample: Sample) -> Callable[[str], bytes | None]:
    """Return a function that gives the next node's vector near its topic's centre, as NIMA stores it."""
    if sample.shape < "2.2" or not sample.embedded_share:
        return lambda _topic: None
    rng = _rng(sample, "embeddings")
    centres = {topic: _centre(rng, sample.dimension) for topic in TOPICS}
    # Three uniform numbers stand in for a normal one, whose logarithm may differ between machines.
    deviation = 2 * math.sqrt((1 - TOPIC_SHARE) / sample.dimension)
    noise = array("d")
    for _ in range(NOISE_FLOATS):
        noise.append((rng.random() + rng.random() + rng.random() - 1.5) * deviation)
    noise.extend(noise[: sample.dimension])
    pack = struct.Struct(f"<{sample.dimension}f").pack
    position = 0

    def embed(topic: str) -> bytes | None:
        nonlocal position
        position += 1
        if int(position * sample.embedded_share) == int((position - 1) * sample.embedded_share):
            return None
        begin = position * NOISE_STEP % NOISE_FLOATS
        stretch = noise[begin : begin + sample.dimension]
        return pack(*[value + shift for value, shift in zip(centres[topic], stretch, strict=True)])

    return embed


def _centre(rng: Random, dimension: int) -> list[float]:
    values = [rng.random() - 0.5 for _ in range(dimension)]
    scale = math.sqrt(TOPIC_SHARE / math.fsum(value * value for value in values))
    return [value * scale for value in values]


def _edges(sample: Sample, plan: _Plan) -> Iterator[_Row]:
    """Yield the edges of each turn, and as many from one turn to the next as the count still wants."""
    rng = _rng(sample, "edges")
    links = islice(_links(sample, plan), sample.edges)
    for edge_id, (turn, source, target, relation) in enumerate(links, start=1):
        edge = {"id": edge_id, "source_id": source, "target_id": target, "relation": relation}
        yield edge | {"weight": _share(rng), "created_at": _written(turn.timestamp)}


def _links(sample: Sample, plan: _Plan) -> Iterator[tuple[_Turn, int, int, str]]:
    steps = max(1, len(plan.turns) - 1)
    across = min(steps, sample.edges - sum(len(_inner_links(turn)) for turn in plan.turns))
    yield from ((turn, *link) for turn in plan.turns[:1] for link in _inner_links(turn))
    for step, (before, turn) in enumerate(pairwise(plan.turns)):
        # Spreads the links between turns evenly over the whole time.
        if (step + 1) * across // steps > step * across // steps:
            (layer, first), (_, last) = turn.nodes[0], before.nodes[-1]
            yield ((turn, first, last, "responded_to") if layer == "input" else (turn, last, first, "triggered"))
        yield from ((turn, *link) for link in _inner_links(turn))


def _inner_links(turn: _Turn) -> list[tuple[int, int, str]]:
    """Return source, target and relation of each link between two nodes of the turn."""
    question, thought, answer = turn.input_id, turn.contemplation_id, turn.output_id
    candidates = (
        (question, thought, "triggered"),
        (question if thought is None else thought, answer, "produced"),
        (answer, question, "responded_to"),
    )
    return [(a, b, relation) for a, b, relation in candidates if a is not None and b is not None]


def _turn_rows(sample: Sample, plan: _Plan) -> Iterator[_Row]:
    rng = _rng(sample, "turns")
    for turn in plan.turns:
        yield {
            "id": turn.number + 1,
            "turn_id": turn.turn_id,
            "input_node_id": turn.input_id,
            "contemplation_node_id": turn.contemplation_id,
            "output_node_id": turn.output_id,
            "timestamp": turn.timestamp,
            "affect_json": _affect(rng) if _chance(rng, 0.9) else None,
            "created_at": _written(turn.timestamp),
        }


def _insert_3_1(connection: sqlite3.Connection, sample: Sample, plan: _Plan) -> None:
    """Put three rows into each table that 3.1 brought; those that name a memory name one that exists."""
    rng = _rng(sample, "3.1")
    memories = [*plan.legacy_ids[:3], *(node_id for turn in plan.turns[:3] for _, node_id in turn.nodes)]
    sources = json.dumps(memories)
    for number, topic in enumerate(islice(TOPICS, 3), start=1):
        nouns = TOPICS[topic]
        thought, domains = _sentence(rng, nouns).strip(), json.dumps([topic])
        then, now = _written(END_MS - number * 9 * DAY_MS), _written(END_MS - number * DAY_MS)
        share = _share(rng)
        rows: dict[str, tuple[Any, ...]] = {
            "nima_insights": (
                f"insight_{number}",
                thought,
                "pattern",
                share,
                sources,
                domains,
                now,
                0.5,
                number % 2,
            ),
            "nima_patterns": (
                *(f"pattern_{number}", f"{topic} returns", thought, 3 + number, domains),
                *(json.dumps(nouns[:3]), then, now, share),
            ),
            "nima_dream_runs": (f"dream_{number}", now[:10], thought, len(memories), now),
            "nima_pruner_runs": (number, now, len(memories), 1),
        }
        if number <= len(memories):
            memory = memories[-number]
            rows["nima_suppressed_memories"] = (memory, "dismissed five times", now)
            rows["nima_lucid_moments"] = (number, memory, thought, now)
        for table, row in rows.items():
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
