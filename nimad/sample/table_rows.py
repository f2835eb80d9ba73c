"""The rows of each table, made one after the other from the plan."""

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from random import Random
from typing import Any

from nimad.sample.outline import Outline, Turn
from nimad.sample.request import Sample
from nimad.sample.seeded_random import chance, rng_of, share_of
from nimad.sample.times import DAY_MS, END_MS, LEGACY_DAYS, TURN_DAYS, written
from nimad.sample.topic_vectors import embedder
from nimad.sample.vocabulary import AFFECTS, AGENT, PEOPLE, TOPICS, sentence, sentences_of, text_of

TURNS_IN_CONVERSATION = 12
SUMMARY_CHARACTERS = 300
TURN_TEXT_CHARACTERS = (1_800, 5_300)
LEGACY_TEXT_CHARACTERS = (4_000, 5_400)

Row = dict[str, Any]  # column → value; a shape without the column leaves the value out


def nodes_of(sample: Sample, plan: Outline) -> Iterator[Row]:
    """Yield the imported rows and then the nodes of each turn, ids rising."""
    rng = rng_of(sample, "nodes")
    sentences = sentences_of(sample)
    embed = embedder(sample)
    begin = END_MS - (TURN_DAYS + LEGACY_DAYS) * DAY_MS
    for position, node_id in enumerate(plan.legacy_ids):
        topic = rng.choice(list(TOPICS))
        timestamp = begin + LEGACY_DAYS * DAY_MS * position // len(plan.legacy_ids)
        node = _node(rng, node_id, timestamp, layer="legacy_vsa", topic=topic, sentences=sentences[topic])
        _age(rng, node, 0.4)
        yield node | {"embedding": embed(topic), "conversation_id": None, "turn_id": None}
    for turn in plan.turns:
        talk = rng_of(sample, f"conversation {turn.number // TURNS_IN_CONVERSATION}")
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


def _node(rng: Random, node_id: int, timestamp: int, *, layer: str, topic: str, sentences: list[str]) -> Row:
    limits = LEGACY_TEXT_CHARACTERS if layer == "legacy_vsa" else TURN_TEXT_CHARACTERS
    return {
        "id": node_id,
        "timestamp": timestamp,
        "layer": layer,
        "text": text_of(rng, node_id, timestamp, sentences, limits),
        "summary": "".join(rng.choices(sentences, k=3))[:SUMMARY_CHARACTERS].strip(),
        "who": rng.choice(PEOPLE),
        "affect_json": _affect(rng),
        "session_key": "agent:main:main",
        "created_at": written(timestamp),
        "fe_score": share_of(rng),
        "strength": share_of(rng),
        "decay_rate": rng.choice((0.005, 0.01, 0.01, 0.02)),
        "last_accessed": rng.randrange(timestamp, END_MS + DAY_MS) if chance(rng, 0.4) else None,
        "is_ghost": int(chance(rng, 0.01)),
        "dismissal_count": rng.choice((1, 2, 5)) if chance(rng, 0.04) else 0,
        "themes": json.dumps([topic, rng.choice(TOPICS[topic])]) if chance(rng, 0.7) else None,
    }


def _age(rng: Random, node: Row, share: float) -> None:
    """Empty two fields that early releases did not always fill, in ``share`` of the rows."""
    if chance(rng, share):
        fields = ("summary", "who", "affect_json", "session_key", "conversation_id", "created_at")
        node.update(dict.fromkeys(rng.choices(fields, k=2)))


def _affect(rng: Random) -> str:
    return json.dumps({name: share_of(rng) for name in rng.choices(AFFECTS, k=3)})


def edges_of(sample: Sample, plan: Outline) -> Iterator[Row]:
    """Yield the edges of each turn, and as many from one turn to the next as the count still wants."""
    rng = rng_of(sample, "edges")
    links = islice(_links(sample, plan), sample.edges)
    for edge_id, (turn, source, target, relation) in enumerate(links, start=1):
        edge = {"id": edge_id, "source_id": source, "target_id": target, "relation": relation}
        yield edge | {"weight": share_of(rng), "created_at": written(turn.timestamp)}


def _links(sample: Sample, plan: Outline) -> Iterator[tuple[Turn, int, int, str]]:
    steps = max(1, len(plan.turns) - 1)
    across = min(steps, sample.edges - sum(len(_inner_links(turn)) for turn in plan.turns))
    yield from ((turn, *link) for turn in plan.turns[:1] for link in _inner_links(turn))
    for step, (before, turn) in enumerate(pairwise(plan.turns)):
        # Spreads the links between turns evenly over the whole time.
        if (step + 1) * across // steps > step * across // steps:
            (layer, first), (_, last) = turn.nodes[0], before.nodes[-1]
            yield ((turn, first, last, "responded_to") if layer == "input" else (turn, last, first, "triggered"))
        yield from ((turn, *link) for link in _inner_links(turn))


def _inner_links(turn: Turn) -> list[tuple[int, int, str]]:
    """Return source, target and relation of each link between two nodes of the turn."""
    question, thought, answer = turn.input_id, turn.contemplation_id, turn.output_id
    candidates = (
        (question, thought, "triggered"),
        (question if thought is None else thought, answer, "produced"),
        (answer, question, "responded_to"),
    )
    return [(a, b, relation) for a, b, relation in candidates if a is not None and b is not None]


def turns_of(sample: Sample, plan: Outline) -> Iterator[Row]:
    rng = rng_of(sample, "turns")
    for turn in plan.turns:
        yield {
            "id": turn.number + 1,
            "turn_id": turn.turn_id,
            "input_node_id": turn.input_id,
            "contemplation_node_id": turn.contemplation_id,
            "output_node_id": turn.output_id,
            "timestamp": turn.timestamp,
            "affect_json": _affect(rng) if chance(rng, 0.9) else None,
            "created_at": written(turn.timestamp),
        }


def rows_of_3_1(sample: Sample, plan: Outline) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield three rows, each with its table, for each table that 3.1 brought; a memory that one names exists."""
    rng = rng_of(sample, "3.1")
    memories = [*plan.legacy_ids[:3], *(node_id for turn in plan.turns[:3] for _, node_id in turn.nodes)]
    sources = json.dumps(memories)
    for number, topic in enumerate(islice(TOPICS, 3), start=1):
        nouns = TOPICS[topic]
        thought, domains = sentence(rng, nouns).strip(), json.dumps([topic])
        then, now = written(END_MS - number * 9 * DAY_MS), written(END_MS - number * DAY_MS)
        share = share_of(rng)
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
        yield from rows.items()
