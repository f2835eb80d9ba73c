"""`nimad report`: what it tells of a run, as text, as JSON, and as a page that a browser shows without asking anybody.

The account of one made-up run is kept in `tests/golden/report.txt`. After a change that is meant:

    NIMAD_UPDATE_GOLDEN=1 python -m pytest tests/unit/report/test_report.py -k golden && git diff tests/golden
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.memories import make_memory

from nimad.errors import CannotWriteError, UsageError
from nimad.report.run import tables
from nimad.report.run.build import account
from nimad.report.run.model import RunReport
from nimad.report.run.output import save
from nimad.report.run.page import page
from nimad.report.run.text import text
from nimad.state.paths import Files
from nimad.state.run_history_reader import read_history

GOLDEN = Path(__file__).parents[2] / "golden" / "report.txt"
HOSTILE = "</style><script>alert(1)</script>\x1b[31m\u202eevil\x00 & \"'"
MB = 10**6
FIRST, SECOND = "a" * 32, "b" * 32


def lines_of(*lines: dict[str, Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def head(run: str, at: float, **more: Any) -> dict[str, Any]:
    versions = {"nimad": "0.1.0", "python": "3.11.2", "sqlite": "3.40.1", "system": "Linux 6.6.51 aarch64"}
    return {"begins": run, "format": 1, "at": at, "goes_on": False, "source": "SOURCE", **versions, **more}


def batch(at: float, table: str, number: int, offset: int, rows: int, of: int, **more: Any) -> dict[str, Any]:
    facts = {"t": at, "event": "Batch", "table": f"memory_{table}", "number": number, "batches": 1, "offset": offset}
    took = {"bytes": rows * 5_000, "seconds": 1.5, "attempts": 1, "peak_rss": (150 + number * 20) * MB}
    return {**facts, "rows": rows, **took, "done": offset + rows, "of": of, **more}


def section_one() -> Iterator[dict[str, Any]]:
    yield head(FIRST, 1_764_000_000.0)
    left = [["memory_fts", 9_770, "an index, not data"]]
    layers = {"input": 6_000, HOSTILE: 3_770}
    yield {"t": 0.1, "event": "Analyzed", "size": 79 * MB, "nodes": 9_770, "edges": 40, "turns": 0} | {
        "layers": layers,
        "left_out": left,
    }
    plan = {"worker_bytes": 400 * MB, "pool_bytes": 256 * MB, "memory_needed": 200 * MB, "memory_available": 700 * MB}
    yield {"t": 0.2, "event": "Planned", "plan": plan}
    yield {"t": 0.3, "event": "EngineChosen", "engine": "ladybug 0.22.0", "storage_version": 49, "readers": ["/usr/x"]}
    yield batch(2.0, "nodes", 1, 0, 500, 9_770)
    failed = {"event": "BatchFailed", "attempts": 4, "offset": 500}
    yield {"t": 4.0, "attempt": 1, "message": HOSTILE, "delay_s": 0.0, **failed}
    yield {"t": 5.0, "attempt": 2, "message": "the worker was ended by SIGKILL", "delay_s": 1.0, **failed}
    yield batch(8.0, "nodes", 2, 500, 2_000, 9_770, attempts=3)
    message = "stopped; 2500 of 9770 nodes are kept"
    yield {"t": 9.0, "event": "Ended", "outcome": "interrupted", "exit_code": 75, "message": message}


def section_two() -> Iterator[dict[str, Any]]:
    yield head(SECOND, 1_764_000_600.0, goes_on=True)
    yield batch(3.0, "nodes", 1, 2_500, 7_270, 9_770)
    yield batch(4.0, "edges", 1, 0, 40, 40)
    yield {"t": 4.5, "event": "Verifying", "level": "full"}
    compared = {"memory_nodes": 9_769, "memory_edges": 40}
    yield {"t": 6.5, "event": "Verified", "compared": compared, "refreshed": 2, "removed": 0, "seconds": 2.0}
    yield {"t": 6.6, "event": "ReaderChecked", "reader": "/home/me/.nima/.venv/bin/python (ladybug 0.22.0)"}
    yield {"t": 7.0, "event": "Published", "size": 51 * MB}
    phases = {"loading memory_nodes": 3.0, "verifying": 2.0, "publishing": 0.011}
    result = {"migrated": 9_769, "edges": 40, "turns": 0, "phases_s": phases, "peaks": {"verifying": 300 * MB}}
    yield {"t": 7.1, "event": "Finished", "result": result, "exit_code": 1}


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target of which everything is told, and whose file is none."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    target = tmp_path / "graph.ladybug"
    target.write_bytes(b"x" * 50 * 1_000)
    files = Files(target)
    record = lines_of(*section_one(), *section_two()).replace("SOURCE", str(tmp_path / "graph.sqlite"))
    files.runs.write_text(record)
    state = {"format": 1, "phase": "complete", "published": {"MemoryNode": 9_771, "relates_to": 40}, "quarantined": 2}
    followed = {"followed": {"at": "2025-11-25T08:00:00+0000"}}
    files.state.write_text(json.dumps({**state, **followed, "source": {"path": "/nowhere/graph.sqlite", "inode": 1}}))
    entry = {"table": "memory_nodes", "id": 17, "part": "row", "reason": f"{HOSTILE} {'long ' * 100}"}
    files.quarantine.write_text(lines_of({**entry, "row": {"text": "a secret memory"}}, {**entry, "part": "embedding"}))
    return target


def told(target: Path, **changes: Any) -> RunReport:
    (migration,) = read_history(Files(target).runs)
    return replace(account(target, migration, latest=True), made=0.0, **changes)


def test_golden_text(target: Path, tmp_path: Path) -> None:
    said = text(told(target)).replace(str(tmp_path), "FOLDER")
    if "NIMAD_UPDATE_GOLDEN" in os.environ:
        GOLDEN.write_text(said, encoding="utf-8")
    assert said == GOLDEN.read_text(encoding="utf-8")
    assert "\x1b" not in said


def test_json_has_everything_and_no_text_of_a_memory(target: Path) -> None:
    facts = json.loads(json.dumps(told(target).to_json()))
    assert (facts["outcome"], facts["exit_code"], facts["run"], facts["retries"]) == ("complete", 1, SECOND, 2)
    assert [span["batch"]["rows"] for span in facts["spans"]] == [500, 2_000, 7_270, 40]
    assert [round(span["ended_s"], 3) for span in facts["spans"]] == [2.0, 8.0, 12.0, 13.0]
    assert facts["verifying"] == [[13.5, 15.5]]
    assert (facts["peak_rss"], facts["plan"]["worker_bytes"]) == (300 * MB, 400 * MB)
    assert facts["later"] == {"caught_up": "2025-11-25T08:00:00+0000", "memories": 9_771}
    assert facts["aside_in_all"] == 2
    for form in (json.dumps(facts), text(told(target)), page(told(target))):
        assert "secret" not in form


class Checked(HTMLParser):
    """Every element is closed, in order; nothing runs, and nothing is asked for."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[list[str]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe", "object", "base", "form"}
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in {"src", "href", "style", "action"}, value
        self.ids += [value for name, value in attrs if name == "id" and value]
        if dict(attrs).get("role") == "img":
            self.pictures.append(str(dict(attrs)["aria-labelledby"]).split())
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_runs_nothing_and_asks_for_nothing_whatever_is_in_it(target: Path) -> None:
    written = page(told(target))
    checked = Checked(written)
    assert len(checked.pictures) == 3
    assert len(set(checked.ids)) == len(checked.ids)
    assert all(set(names) <= set(checked.ids) for names in checked.pictures), "each says what it shows"
    assert "&lt;script&gt;alert(1)" in written
    assert not re.search(r"https?:|url\(|@import|[\x00-\x08\x1b\u202e]", written)
    assert "default-src &#x27;none&#x27;" in written
    assert len(written) < 40_000


def test_each_figure_of_a_picture_is_in_a_table(target: Path) -> None:
    said = told(target)
    rows = tables.batches(said).rows
    for shown in ("500", "2,000", "7,270", "333/s", "1,333/s", "170 MB"):
        assert any(shown in row for row in rows), shown
        assert shown in page(said)
    assert [row[1] for row in tables.failures(said).rows] == ["1", "2"]


def test_a_thousand_batches_are_a_page_of_bounded_length(target: Path) -> None:
    said = told(target)
    spans = [replace(said.spans[0], began_s=float(n), ended_s=n + 0.9) for n in range(1_000)]
    many = replace(said, spans=spans, seconds=1_000.0)
    assert len(tables.batches(many).rows) <= tables.BATCH_LINES
    assert sum(int(row[2].replace(",", "")) for row in tables.batches(many).rows) == 500_000
    assert len(page(many)) < 200_000


def test_what_was_killed_or_failed_is_told_as_that(target: Path) -> None:
    runs = Files(target).runs
    whole = runs.read_text().splitlines(keepends=True)
    Files(target).state.unlink()
    target.unlink()
    runs.write_text("".join(whole[:6]))
    assert told(target).outcome == "unfinished"
    assert "run the same command again" in text(told(target))
    runs.write_text("".join(whole[:6]) + "".join(line for line in whole if f'"begins": "{SECOND}"' in line))
    assert [each.outcome for each in told(target).processes] == ["killed", "unfinished"]
    failed = {"t": 9, "event": "Ended", "outcome": "failed", "exit_code": 74, "message": "the disk is full"}
    runs.write_text("".join(whole[:6]) + lines_of(failed))
    assert (told(target).outcome, told(target).exit_code) == ("failed", 74)
    assert "the disk is full" in page(told(target))


@pytest.mark.long
def test_a_record_that_somebody_wrote_in_still_makes_a_page(target: Path) -> None:
    runs = Files(target).runs
    strange: list[Any] = [None, -1, 1e300, True, [], {}, "x" * 10_000, HOSTILE, [[[]]]]
    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    kept = ("begins", "format", "at", "event", "t")
    for place, line in enumerate(lines):
        for value in strange:
            inner = dict.fromkeys(("worker_bytes", "pool_bytes", "peaks", "phases_s", "migrated", "compared"), value)
            for wrong in (value, {HOSTILE: value, **inner}, [value]):
                changed = {key: each if key in kept else wrong for key, each in line.items()}
                runs.write_text(lines_of(*lines[:place], changed, *lines[place + 1 :]))
                for migration in read_history(runs):
                    said = account(target, migration, latest=True)
                    text(said)
                    assert "<script" not in page(said)


def test_an_earlier_migration_is_told_without_what_is_another_ones(target: Path) -> None:
    runs = Files(target).runs
    runs.write_text(
        runs.read_text().replace('"edges": 40, "turns": 0, "ph', '"quarantined": 3, "edges": 40, "turns": 0, "ph')
    )
    (migration,) = read_history(runs)
    said = account(target, migration, latest=False)
    assert (said.aside_in_all, said.exit_code, said.later, said.sizes["target_then"]) == (3, 1, {}, 51 * MB)
    assert "target_now" not in said.sizes
    assert "They stand beside the backup of that target." in page(said)
    assert "3 entries are in quarantine" in text(said)


def test_a_pipe_in_the_place_of_the_record_is_not_waited_for(target: Path) -> None:
    Files(target).runs.unlink()
    os.mkfifo(Files(target).runs)
    assert read_history(Files(target).runs) == []


def test_without_a_record_the_state_file_tells(target: Path) -> None:
    Files(target).runs.unlink()
    said = account(target, None, latest=True)
    assert (said.outcome, [each.target for each in said.moved]) == ("complete", [9_771, 40])
    assert "No record tells of its batches" in page(said)
    Files(target).state.unlink()
    with pytest.raises(UsageError, match="nothing tells how"):
        account(target, None, latest=True)
    with pytest.raises(UsageError, match="there is no file"):
        account(target.with_name("other"), None, latest=True)


def test_no_report_takes_the_place_of_a_memory_or_of_what_is_no_file(target: Path, tmp_path: Path) -> None:
    another = make_memory(tmp_path / "another.db", nodes=[])
    link, source = tmp_path / "link.html", tmp_path / "graph.sqlite"
    link.symlink_to("elsewhere.html")
    before = {path: path.read_bytes() for path in (target, another)}
    for place, why in (
        (target, "belongs to the memory itself"),
        (target.with_name("graph.ladybug.wal"), "belongs to the memory itself"),
        (target.with_name("graph.ladybug.runs.jsonl"), "belongs to the memory itself"),
        (tmp_path / "graph.sqlite-wal", "belongs to the memory itself"),
        (another, "is a database"),
        (link, "is no plain file"),
        (Path("/dev/null"), "is no plain file"),
        (tmp_path, "is a folder"),
        (Path(), "is a folder"),
        (Path("/"), "is a folder"),
    ):
        with pytest.raises(CannotWriteError, match=why):
            save("<p>", place, target, source)
    assert {path: path.read_bytes() for path in before} == before
    for place in (target.with_name("graph.ladybug.report.txt"), tmp_path / "r.html", tmp_path / "graph.sqlite.html"):
        save("old", place, target, source)
        save("<p>", place, target, source)
        assert place.read_text() == "<p>"


# In a browser
