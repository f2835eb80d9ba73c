"""Cells: one odd value never keeps a memory from arriving, and is set aside alone, whole, with its reason."""

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.arrival import Raw, assert_arrived, columns_without_types, parts, write
from support.commands import nimad
from support.environments import OLDEST, Engine, MakeEnvironment, read_with
from support.memories import (
    assert_same,
    change,
    edge,
    make_memory,
    migrate,
    migrate_smoothly,
    node,
    quarantine_file,
    read_quarantine,
    read_target,
    turn,
    vector,
)
from support.torture import target_of
from test_rollback import apply, look

from nimad.errors import ExitCode, RefusedError
from nimad.events.run import BatchFailed, DryRun, Planned, Quarantined

INT64_MIN = -(2**63)
COUNT = 120


def nodes(odd: dict[int, dict[str, Any]], count: int = COUNT) -> list[dict[str, Any]]:
    return [node(key, **odd.get(key, {})) for key in range(1, count + 1)]


# Values that do not fit their columns


def test_flags_and_scores_that_an_import_left_as_text(tmp_path: Path) -> None:
    odd: dict[int, dict[str, Any]] = {
        5: {"is_ghost": "false"},
        10: {"is_ghost": "true"},
        15: {"fe_score": ""},
        20: {"dismissal_count": ""},
        25: {"last_accessed": "2026-03-04T05:06:07Z"},
        30: {"strength": "NaN"},
        35: {"decay_rate": "n/a"},
        40: {"is_ghost": 2},
    }
    edges = [edge(key, key, key + 1, **({"weight": ""} if key in (3, 4) else {})) for key in range(1, 61)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes(odd), edges=edges)
    done = nimad(tmp_path, "migrate", "--source", source)
    assert done.code == ExitCode.QUARANTINED
    there = assert_arrived(source, target_of(source))
    assert len(there.edges) == 60
    assert set(parts(target_of(source))) == {
        *(("memory_nodes", key, name) for key, row in odd.items() for name in row),
        ("memory_edges", 3, "weight"),
        ("memory_edges", 4, "weight"),
    }
    ghosts = {key: row["is_ghost"] for key, row in there.nodes.items() if key in (5, 10, 40)}
    assert ghosts == {5: False, 10: False, 40: False}, "the default, for a reader's filter passes no NULL"
    assert (there.nodes[15]["fe_score"], there.nodes[30]["strength"]) == (None, 1.0)
    lines = done.out.splitlines()
    summary = next(at for at, line in enumerate(lines) if "120 of 120 memories, 10 values set aside" in line)
    assert summary < next(
        at for at, line in enumerate(lines) if "Quarantined: 3 of memory_nodes is_ghost: 5, 10, 40" in line
    )
    assert any("Success rate: 100.0%" in line for line in lines)
    assert any("Migration completed with errors" in line for line in lines)
    assert nimad(tmp_path, "health", "--source", source).code == 0
    compared = nimad(tmp_path, "verify", "--source", source)
    assert compared.code == ExitCode.QUARANTINED, compared.out
    assert not look(source).writes


@pytest.mark.sampled
@pytest.mark.parametrize(
    "odd",
    [
        {"fe_score": b"\x00\x01", "strength": "high", "timestamp": b"\x05", "themes": Raw(b"[\xff]")},
        {"is_ghost": -1, "dismissal_count": 0.5, "last_accessed": 1e300, "importance": "1e999"},
        {
            "text": Raw(b"one bad byte \xff"),
            "summary": Raw(b"\xed\xa0\x80"),
            "who": b"\xfe\xff",
            "layer": Raw(b"in\xc3"),
        },
    ],
    ids=["bytes", "out of range", "no UTF-8"],
)
def test_a_memory_that_is_odd_in_four_columns_at_once(tmp_path: Path, odd: dict[str, Any]) -> None:
    names = sorted({"id", "timestamp", "layer", "text", "summary", "who", "fe_score", "strength", *odd} - {"id"})
    source = make_memory(
        tmp_path / "graph.sqlite", own_schema=True, schema=[columns_without_types("memory_nodes", names)]
    )
    write(source, "memory_nodes", [node(1), node(2, **odd), node(3)])
    run = migrate_smoothly(source)
    assert_arrived(source, run.target)
    assert set(parts(run.target)) == {("memory_nodes", 2, name) for name in odd}
    for entry in run.quarantine:
        assert entry["row"]["id"] == 2
        assert set(entry) == {"table", "id", "part", "reason", "attempts", "engine", "row"}
    assert (run.result.quarantined, run.result.quarantined_parts, run.result.exit_code) == (0, 4, 1)


def test_the_readable_text_migrates_and_the_bytes_are_in_quarantine(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    write(source, "memory_nodes", [node(2, summary=Raw(b"caf\xe9 au lait"))])
    run = migrate_smoothly(source)
    assert read_target(run.target).nodes[2]["summary"] == "caf\ufffd au lait"
    (entry,) = run.quarantine
    assert (entry["part"], entry["row"]["summary"]) == ("summary", {"text_base64": "Y2Fm6SBhdSBsYWl0"})
    assert run.only(Quarantined).converted == {"memory_nodes summary": 1}
    # Nobody changed it: going back leaves the bytes, and a change of the agent's is carried back.
    assert not look(source).writes


def test_columns_called_like_parts_are_told_apart_from_them(tmp_path: Path) -> None:
    own = ['"row"', '"range"', '"has_input"']
    schema = [columns_without_types("memory_nodes", ["text", "row", "range", "has_input"])]
    source = make_memory(tmp_path / "graph.sqlite", own_schema=True, schema=schema)
    bad = Raw(b"\xff")
    write(source, "memory_nodes", [{"id": 1, "text": "a", "row": bad, "range": bad, "has_input": bad}])
    run = migrate_smoothly(source)
    assert sorted(read_target(run.target).nodes) == [1]
    assert sorted(entry["part"] for entry in run.quarantine) == sorted(own)
    assert run.result.quarantined == 0


def test_a_turn_with_a_link_that_is_no_id_migrates_without_it(tmp_path: Path) -> None:
    turns = [turn(1, 1, "two", 3), turn(2, 0.5, b"3", None), turn(3, "1", 2.0, 3)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes({}, 3), turns=turns)
    run = migrate_smoothly(source)
    assert_arrived(source, run.target)
    assert set(parts(run.target)) == {
        ("memory_turns", 1, "has_contemplation"),
        ("memory_turns", 2, "has_input"),
        ("memory_turns", 2, "has_contemplation"),
    }


def test_no_reason_and_no_line_of_the_console_has_a_word_of_a_memory(tmp_path: Path) -> None:
    marked = "xylophone"
    odd = {name: f"{marked} {name}" for name in ("timestamp", "fe_score", "is_ghost", "embedding", "strength")}
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1), node(2, **odd)])
    write(source, "memory_nodes", [node(3, summary=Raw(marked.encode() + b"\xff"))])
    done = nimad(tmp_path, "migrate", "--source", source)
    said = done.out + done.err + done.log + nimad(tmp_path, "quarantine", "list", "--target", target_of(source)).out
    said += nimad(tmp_path, "verify", "--source", source).out
    assert marked not in said
    assert marked in quarantine_file(target_of(source)).read_text()


def test_strict_stops_at_the_first_value(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes({7: {"fe_score": "x"}, 3: {"is_ghost": "no"}}, 10))
    with pytest.raises(RefusedError, match=r"memory_nodes id 3: is_ghost: text of 2 characters where 0 or 1 belongs"):
        migrate(source, strict=True)
    assert not target_of(source).exists()


def test_a_value_that_was_mended_is_tried_again(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes({3: {"fe_score": "x"}}, 10))
    migrate(source, reader_python=Path("none"))
    change(source, "UPDATE memory_nodes SET fe_score = 0.5 WHERE id = 3")
    done = nimad(tmp_path, "quarantine", "retry", "--target", target_of(source))
    assert done.code == 0, done.err
    assert_same(source, target_of(source))
    assert not quarantine_file(target_of(source)).exists()


def test_what_the_agent_wrote_in_place_of_an_odd_value_is_carried_back(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes({3: {"is_ghost": "false"}, 4: {"fe_score": ""}}, 10))
    target = migrate(source, reader_python=Path("none")).target
    from support.torture import opened

    with opened(target) as ask:
        ask("MATCH (n:MemoryNode {id: 3}) SET n.is_ghost = true, n.summary = 'in short'")
    apply(source)
    from support.memories import read_source

    rows = read_source(source).nodes
    assert (rows[3]["is_ghost"], rows[3]["summary"], rows[4]["fe_score"]) == (1, "in short", "")


# Moments


def test_moments_with_fractions_and_dates_are_read_and_listed_once(tmp_path: Path) -> None:
    odd: dict[int, dict[str, Any]] = {key: {"timestamp": 1.7e12 + key + 0.75} for key in range(1, 91)}
    odd[91] = {"timestamp": "2026-03-04T05:06:07.5+02:00"}
    odd[92] = {"timestamp": "yesterday"}
    turns = [turn(1, 1, timestamp="2026-03-04 05:06:07"), turn(2, 2, timestamp=-1.5)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes(odd), turns=turns)
    done = nimad(tmp_path, "migrate", "--source", source)
    there = assert_arrived(source, target_of(source))
    assert [there.nodes[key]["timestamp"] for key in (1, 90, 91, 92)] == [
        1_700_000_000_001,
        1_700_000_000_090,
        1_772_593_567_500,
        None,
    ]
    assert (there.turns[1]["timestamp"], there.turns[2]["timestamp"]) == (1_772_600_767_000, -1)
    converted = "values are not as in SQLite, the originals are in quarantine: "
    assert done.out.count(f"Converted: 91 {converted}memory_nodes timestamp") == 1
    assert done.out.count(f"Converted: 2 {converted}memory_turns timestamp") == 1
    assert {part for _, _, part in parts(target_of(source))} == {"timestamp"}
    assert len(read_quarantine(target_of(source))) == 94
    assert nimad(tmp_path, "health", "--source", source).code == 0


def test_going_on_after_an_interruption_lists_each_value_once(tmp_path: Path) -> None:
    odd: dict[int, dict[str, Any]] = {key: {"timestamp": key + 0.5} for key in range(1, COUNT + 1)}
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes(odd), edges=[edge(1, 1, 2)])
    from test_quarantine import nodes_are_in, stop_once

    stop_once(source, nodes_are_in)
    run = migrate_smoothly(source)
    assert len(run.quarantine) == COUNT
    assert_arrived(source, run.target)


# Columns of the user's own


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("declared", "values", "kind"),
    [
        ("INTERVAL", ["3 days", "2 hours", None], "STRING"),
        ("POINT", [1, 2, None], "INT64"),
        ("INTEGER", [1, 2.5, 3], "DOUBLE"),
        ("INTEGER", [2**53 + 1, 2.5], "STRING"),
        ("REAL", [0.5, "high"], "STRING"),
        ("BLOB", [b"\x00", "text"], "BLOB"),
        ("BLOB", ["ok", 5], "STRING"),
        ("DOUBLE PRECISION", [b"\x00\xff", None], "BLOB"),
        ("TEXT", ["a", None], "STRING"),
    ],
)
def test_a_column_of_ones_own_is_what_is_in_it(tmp_path: Path, declared: str, values: list[Any], kind: str) -> None:
    schema = [f"ALTER TABLE memory_nodes ADD COLUMN mine {declared}"]
    rows = [node(key, mine=value) for key, value in enumerate(values, 1)]
    source = make_memory(tmp_path / "graph.sqlite", schema=schema, nodes=rows)
    run = migrate_smoothly(source)
    there = assert_arrived(source, run.target)
    assert there.types["MemoryNode"]["mine"] == kind
    assert run.quarantine == []
    assert run.result.exit_code == 0


# Most of it would not arrive


def half_lost(path: Path, lost: int, count: int = 20) -> Path:
    """Memories of which so many have no id."""
    keys = [*range(1, count - lost + 1), *[None] * lost]
    rows = [{"id": key, "text": f"text {number}"} for number, key in enumerate(keys)]
    schema = ["CREATE TABLE memory_nodes (id, text TEXT)"]
    return make_memory(path, own_schema=True, schema=schema, nodes=rows)


def test_where_most_would_not_arrive_nothing_is_published(tmp_path: Path) -> None:
    source = half_lost(tmp_path / "graph.sqlite", 11)
    dry = nimad(tmp_path, "migrate", "--source", source, "--dry-run")
    assert "A real run would publish nothing: 11 of 20 memories would be set aside whole" in dry.out
    done = nimad(tmp_path, "migrate", "--source", source)
    assert done.code == ExitCode.INTERRUPTED
    assert "11 of 20 memories would be set aside whole, more than the 50% of --max-set-aside" in done.error
    assert not target_of(source).exists()
    listed = nimad(tmp_path, "quarantine", "list", "--target", target_of(source))
    assert listed.out.count("its id is no integer") == 11
    done = nimad(tmp_path, "migrate", "--source", source, "--max-set-aside", "100%")
    assert done.code == ExitCode.QUARANTINED
    assert len(read_target(target_of(source)).nodes) == 9


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("allowed", "published"), [("50%", True), ("10", True), ("49.9%", False), ("9", False), ("0", False)]
)
def test_how_many_may_be_set_aside_is_a_number_or_a_share(tmp_path: Path, allowed: str, published: bool) -> None:
    source = half_lost(tmp_path / "graph.sqlite", 10)
    if published:
        assert migrate(source, max_set_aside=allowed).result.migrated == 10
    else:
        with pytest.raises(RefusedError, match=f"10 of 20 memories .* more than the {allowed} of --max-set-aside"):
            migrate(source, max_set_aside=allowed)


@pytest.mark.parametrize("wrong", ["101%", "half", "-1", "", "1e3"])
def test_a_limit_that_cannot_be_is_refused(tmp_path: Path, wrong: str) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    done = nimad(tmp_path, "migrate", "--source", source, f"--max-set-aside={wrong}")
    assert done.code == ExitCode.USAGE
    assert "--max-set-aside must be a number of memories, or a share of them up to 100%" in done.err


def test_the_share_can_stand_in_the_settings_file(tmp_path: Path) -> None:
    source = half_lost(tmp_path / "graph.sqlite", 15)
    (tmp_path / "nimad.toml").write_text('[verify]\nmax_set_aside = "70%"\n')
    done = nimad(tmp_path, "migrate", "--source", source, "--config", tmp_path / "nimad.toml")
    assert done.code == ExitCode.INTERRUPTED
    assert "more than the 70% of --max-set-aside" in done.err
    assert not target_of(source).exists()


# Embeddings of other widths

Pack = Callable[[Sequence[float]], Any]


def as_doubles(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def of_singles(numbers: Sequence[float]) -> bytes:
    """Doubles that were floats of 32 bits before."""
    return as_doubles(struct.unpack(f"<{len(numbers)}f", vector(*numbers)))


def as_halves(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


PACKED: dict[str, tuple[Pack, str]] = {
    "doubles": (as_doubles, "floats of 64 bits"),
    "doubles of singles": (of_singles, "floats of 64 bits"),
    "halves": (as_halves, "floats of 16 bits"),
    "JSON": (lambda numbers: json.dumps(list(numbers)), "lists in JSON"),
    "JSON in a BLOB": (lambda numbers: json.dumps(list(numbers)).encode(), "lists in JSON"),
}


def numbers_of(rng: random.Random, dimension: int, scale: float = 0.4) -> list[float]:
    return [rng.gauss(0, scale) for _ in range(dimension)]


@pytest.mark.sampled
@pytest.mark.parametrize("packed", PACKED)
def test_embeddings_of_another_width_are_converted_and_counted(tmp_path: Path, packed: str) -> None:
    pack, called = PACKED[packed]
    rng = random.Random(packed)
    embeddings = {key: numbers_of(rng, 16) for key in range(1, 71)}
    rows = [node(key, embedding=pack(numbers)) for key, numbers in embeddings.items()]
    source = make_memory(tmp_path / "graph.sqlite", nodes=[*rows, node(71)])
    run = migrate_smoothly(source)
    there = read_target(run.target)
    assert there.types["MemoryNode"]["embedding"] == "FLOAT[16]"
    for key, numbers in embeddings.items():
        exact = struct.unpack("<16e", pack(numbers)) if packed == "halves" else numbers
        assert there.nodes[key]["embedding"] == vector(*exact)
    assert there.nodes[71]["embedding"] is None
    (count,) = run.only(Planned).embeddings.values()
    assert called in run.only(Planned).embeddings
    assert 60 <= count <= 70
    assert run.quarantine == []
    assert run.result.exit_code == 0
    assert nimad(tmp_path, "verify", "--source", source).code == 0
    assert nimad(tmp_path, "health", "--source", source).code == 0


def test_a_few_of_another_width_among_many_become_like_the_others(tmp_path: Path) -> None:
    rng = random.Random(5)
    singles = {key: numbers_of(rng, 32) for key in range(1, 41)}
    doubles = {key: numbers_of(rng, 32) for key in range(41, 51)}
    lists = {key: numbers_of(rng, 32) for key in range(51, 54)}
    rows = [node(key, embedding=vector(*numbers)) for key, numbers in singles.items()]
    rows += [node(key, embedding=as_doubles(numbers)) for key, numbers in doubles.items()]
    rows += [node(key, embedding=json.dumps(numbers)) for key, numbers in lists.items()]
    run = migrate_smoothly(make_memory(tmp_path / "graph.sqlite", nodes=rows))
    there = read_target(run.target)
    for key, numbers in (singles | doubles | lists).items():
        assert there.nodes[key]["embedding"] == vector(*numbers)
    assert run.only(Planned).embeddings == {"floats of 64 bits": 10, "lists in JSON": 3}


def test_singles_stay_what_they_are_bit_for_bit_whatever_their_size(tmp_path: Path) -> None:
    rng = random.Random(6)
    kinds: list[Callable[[], list[float]]] = [
        lambda: numbers_of(rng, 16, 0.02),
        lambda: numbers_of(rng, 16, 30),
        lambda: [float(rng.random() < 0.1) for _ in range(16)],
        lambda: [1e-9, 0.5, *(1e-12,) * 14],
        lambda: [0.5] * 16,
        lambda: [0.0, 1.0] * 8,
    ]
    rows = [node(key, embedding=vector(*kinds[key % len(kinds)]())) for key in range(1, 121)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=rows)
    run = migrate_smoothly(source)
    assert_same(source, run.target)
    assert run.only(Planned).embeddings == {}


@pytest.mark.parametrize("few", ["counts", "eighths"])
def test_doubles_of_few_digits_are_no_singles_with_a_zero_before_each(tmp_path: Path, few: str) -> None:
    rng = random.Random(few)
    numbers = {
        key: [float(rng.randint(0, 3)) if few == "counts" else rng.randint(-127, 127) / 8 for _ in range(32)]
        for key in range(1, 101)
    }
    rows = [node(key, embedding=as_doubles(each)) for key, each in numbers.items()]
    run = migrate_smoothly(make_memory(tmp_path / "graph.sqlite", nodes=rows))
    there = read_target(run.target)
    assert {key: there.nodes[key]["embedding"] for key in numbers} == {k: vector(*each) for k, each in numbers.items()}
    assert run.only(Planned).embeddings == {"floats of 64 bits": 100}


def test_what_an_import_left_at_the_beginning_does_not_speak_for_the_rest(tmp_path: Path) -> None:
    """Of one length: first floats of 32 bits, or zeros, and then twice as many bits for half as many numbers."""
    rng = random.Random(9)
    singles = {key: numbers_of(rng, 64) for key in range(1, 65)}
    doubles = {key: numbers_of(rng, 32) for key in range(141, 301)}
    rows = [node(key, embedding=vector(*each)) for key, each in singles.items()]
    rows += [node(key, embedding=bytes(256)) for key in range(65, 141)]
    rows += [node(key, embedding=as_doubles(each)) for key, each in doubles.items()]
    run = migrate_smoothly(make_memory(tmp_path / "graph.sqlite", nodes=rows))
    there = read_target(run.target)
    assert there.types["MemoryNode"]["embedding"] == "FLOAT[32]"
    assert {key: there.nodes[key]["embedding"] for key in doubles} == {k: vector(*each) for k, each in doubles.items()}
    assert {(entry["id"], entry["part"]) for entry in run.quarantine} == {(key, "embedding") for key in range(1, 141)}


def test_a_list_in_a_blob_is_a_list_whatever_its_length(tmp_path: Path) -> None:
    lists = {key: [(key * place) % 90 + 10 for place in range(20)] for key in range(1, 71)}  # 61 bytes each
    blobs = {key: json.dumps(numbers, separators=(",", ":")).encode() for key, numbers in lists.items()}
    blobs[7] = blobs[7].ljust(80)  # as many as 20 floats of 32 bits take
    run = migrate_smoothly(
        make_memory(tmp_path / "graph.sqlite", nodes=[node(key, embedding=blob) for key, blob in blobs.items()])
    )
    there = read_target(run.target)
    assert {key: there.nodes[key]["embedding"] for key in lists} == {k: vector(*each) for k, each in lists.items()}


def test_embeddings_that_make_no_sense_are_set_aside_with_a_warning(tmp_path: Path) -> None:
    rng = random.Random(7)
    rows = [node(key, embedding=rng.randbytes(64)) for key in range(1, 101)]
    source = make_memory(tmp_path / "graph.sqlite", nodes=rows)
    done = nimad(tmp_path, "migrate", "--source", source)
    assert "[WARN] 100 embeddings make no sense as floats of 16, 32 or 64 bits, and will be set aside" in done.out
    assert done.code == ExitCode.QUARANTINED
    there = read_target(target_of(source))
    assert {row["embedding"] for row in there.nodes.values()} == {None}
    assert len(parts(target_of(source))) == 100


def test_too_few_numbers_prove_nothing_and_stay_what_they_are(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, embedding=as_doubles([0.1, 0.2, 0.3]))])
    run = migrate_smoothly(source)
    assert_same(source, run.target)


# What the engine that writes cannot hold


@pytest.mark.long
def test_the_least_integer_is_set_aside_for_an_engine_that_stores_another(
    tmp_path: Path, make_environment: MakeEnvironment
) -> None:
    old = make_environment(OLDEST, lend=["pyarrow"])
    schema = ["ALTER TABLE memory_nodes ADD COLUMN mine INTEGER", "ALTER TABLE memory_turns ADD COLUMN mine INTEGER"]
    rows = [node(1, last_accessed=INT64_MIN, mine=INT64_MIN), node(2, last_accessed=5, mine=7), node(INT64_MIN)]
    turns = [turn(1, 1, timestamp=INT64_MIN, mine=INT64_MIN)]
    source = make_memory(tmp_path / "graph.sqlite", schema=schema, nodes=rows, turns=turns)
    run = migrate(source, reader_python=old.python)
    assert run.result.exit_code == ExitCode.QUARANTINED
    there = read_with(old.engine("real_ladybug"), run.target)
    assert sorted(there.nodes) == [1, 2]
    assert (there.nodes[1]["last_accessed"], there.nodes[1]["mine"], there.turns[1]["timestamp"]) == (0, None, None)
    assert set(parts(run.target)) == {
        ("memory_nodes", 1, "last_accessed"),
        ("memory_nodes", 1, "mine"),
        ("memory_nodes", INT64_MIN, "row"),
        ("memory_turns", 1, "timestamp"),
        ("memory_turns", 1, "mine"),
    }
    assert nimad(tmp_path, "verify", "--source", source).code == ExitCode.QUARANTINED
    assert_same(source, migrate(source, replace=True, reader_python=Path("none")).target)


#: One of every kind of value that SQLite can hold in any column.
EVERY_VALUE: list[Any] = [
    *(None, 0, 1, -1, 2, 2**53 + 1, 2**63 - 1, INT64_MIN, 0.0, -0.0, 1.0, 0.5, 1e300, 5e-324, float("inf"), -1e-300),
    *("", "1", "0.5", "false", "n/a", "NaN", "inf", "1_000", "0x10", "3 days", "2026-03-04T05:06:07+02:00", "a\0b"),
    *('{"a": 0.5}', "[1, 2, 3, 4]", "[1, 2]", "['x']", "NULL", "x" * 70_000, "🦉\u2028"),
    *(b"", b"\0", b"text", b"\xff", b"[1, 2, 3, 4]", vector(1, 2, 3, 4), bytes(15), vector(*(float("nan"),) * 4)),
    *(Raw(b"caf\xe9"), Raw(b"\xed\xa0\x80"), Raw(b"\xff" * 40)),
]
ANY_COLUMN = (
    *("timestamp", "layer", "text", "summary", "who", "affect_json", "turn_id", "fe_score", "embedding", "strength"),
    *("decay_rate", "last_accessed", "is_ghost", "dismissal_count", "recall_count", "importance", "created_at", "own"),
)


@pytest.mark.sampled
@pytest.mark.parametrize("engine", ["ours", "the oldest", "the oldest without Arrow"])
def test_every_value_in_every_column_leaves_every_memory_there(
    tmp_path: Path, make_environment: MakeEnvironment, engine: str
) -> None:
    keys = range(1, len(EVERY_VALUE) + 1)
    links = ("input_node_id", "contemplation_node_id", "output_node_id")
    rest = ("relation", "weight", "own"), ("turn_id", "timestamp", "affect_json", "own")
    schema = [
        columns_without_types("memory_nodes", ANY_COLUMN),
        columns_without_types("memory_edges", ("source_id", "target_id", *rest[0])),
        columns_without_types("memory_turns", (*links, *rest[1])),
    ]
    source = make_memory(tmp_path / "graph.sqlite", own_schema=True, schema=schema)
    rows = list(zip(keys, EVERY_VALUE, strict=True))
    write(source, "memory_nodes", [{"id": key, **dict.fromkeys(ANY_COLUMN, value)} for key, value in rows])
    edges = [{"id": key, "source_id": key, "target_id": 1, **dict.fromkeys(rest[0], value)} for key, value in rows]
    ends = [{"id": 1_000 + key, "source_id": value, "target_id": 1} for key, value in rows]
    write(source, "memory_edges", [*edges, *ends])
    write(source, "memory_turns", [{"id": key, **dict.fromkeys((*links, *rest[1]), value)} for key, value in rows])

    python, there = Path("none"), None
    if engine != "ours":
        python = make_environment(OLDEST, lend=["pyarrow"] if engine == "the oldest" else []).python
    run = migrate(source, reader_python=python, max_set_aside="0")
    if engine != "ours":
        there = read_with(Engine(python, "real_ladybug"), run.target)
    assert run.all(BatchFailed) == []
    assert_arrived(source, run.target, there=there)
    assert run.result.exit_code == ExitCode.QUARANTINED
    assert nimad(tmp_path, "verify", "--source", source).code == ExitCode.QUARANTINED, "and no difference"


def test_a_dry_run_foretells_what_the_engine_cannot_hold(tmp_path: Path, make_environment: MakeEnvironment) -> None:
    old = make_environment(OLDEST)
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1, last_accessed=INT64_MIN)])
    facts = migrate(source, dry_run=True, reader_python=old.python).only(DryRun).facts
    assert (facts["quarantine_rows"], facts["quarantine_parts"]) == (0, 1)


@pytest.mark.long
def test_a_report_tells_values_from_rows(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=nodes({3: {"fe_score": "x"}}, 10))
    migrate(source, reader_python=Path("none"))
    told = subprocess.run(
        [sys.executable, "-m", "nimad", "report", "--target", target_of(source), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    account = json.loads(told.stdout)
    assert [(each["id"], each["part"]) for each in account["aside"]] == [("3", "fe_score")]
    assert [each["aside"] for each in account["moved"] if each["table"] == "memory_nodes"] == [0]
