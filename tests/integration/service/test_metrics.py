"""Metrics: the file that node_exporter reads, as Prometheus's own parser reads it."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.memories import edge, make_memory, node, turn

import nimad
from nimad.errors import DiskError
from nimad.events import run as e
from nimad.events import service as s
from nimad.events import sync as f
from nimad.migration.run import migrate
from nimad.report.log.sinks import Log
from nimad.report.metrics import PHASES, Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(path: Path) -> Samples:
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for f in families for each in f.samples}


def phase(samples: Samples) -> str:
    (on,) = [labels[0][1] for (name, labels), value in samples.items() if name == "nimad_phase" and value]
    return on


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def log(tmp_path: Path, said: list[str]) -> Log:
    return Log("INFO", said.append, tmp_path)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[nimad.Settings, list[e.Event]]:
    folder = tmp_path_factory.mktemp("metrics")
    nodes = [*(node(number) for number in range(1, 30)), node(30, embedding=b"\1")]
    source = make_memory(folder / "graph.sqlite", nodes=nodes, edges=[edge(1, 1, 2)], turns=[turn(1, 1)])
    settings = nimad.Settings(source=source, metrics_file=folder / "nimad.prom", batch_size=10, fixed_batch=True)
    heard: list[e.Event] = []
    migrate(settings, heard.append)
    return settings, heard


def test_the_file_tells_at_each_event_how_far_a_run_is(
    migrated: tuple[nimad.Settings, list[e.Event]], log: Log, said: list[str], tmp_path: Path
) -> None:
    settings, heard = migrated
    path = tmp_path / "nimad.prom"
    metrics = Metrics(nimad.Settings(source=settings.source, target=tmp_path / "new", metrics_file=path), log)
    seen: dict[str, Samples] = {}
    for event in heard:
        metrics(event)
        samples = read(path)
        seen.setdefault(phase(samples), samples)
        assert [each.name for each in tmp_path.glob("*.prom*")] == ["nimad.prom"], "no half of one is seen"
    assert list(seen) == ["analyzing", "loading", "verifying", "publishing", "complete"]
    assert stat.filemode(path.stat().st_mode) == "-rw-r--r--", "node_exporter is somebody else"
    assert value(seen["loading"], "nimad_source_rows", table="memory_nodes") == 30
    assert ("nimad_last_success_timestamp_seconds", ()) not in seen["loading"]
    done = read(path)
    assert value(done, "nimad_migrated_rows", table="memory_nodes") == 30
    assert value(done, "nimad_migrated_rows", table="memory_turns") == 1
    assert value(done, "nimad_batches_total") == 5
    assert value(done, "nimad_retries_total") == value(done, "nimad_failed_batches_total") == 0
    assert value(done, "nimad_quarantined_rows") == value(done, "nimad_last_run_exit_code") == 1
    assert abs(value(done, "nimad_last_success_timestamp_seconds") - time.time()) < 60
    assert value(done, "nimad_target_size_bytes") == settings.target.stat().st_size
    assert 2**20 < value(done, "nimad_worker_peak_rss_bytes") < value(done, "nimad_worker_planned_bytes")
    (info,) = [dict(labels) for name, labels in done if name == "nimad_info"]
    assert (info["version"], info["engine"]) == (nimad.__version__, "ladybug")
    assert said == []


def test_names_are_prometheus_own(migrated: tuple[nimad.Settings, list[e.Event]], log: Log, tmp_path: Path) -> None:
    settings, heard = migrated
    path = tmp_path / "nimad.prom"
    metrics = Metrics(nimad.Settings(source=settings.source, target=tmp_path / "new", metrics_file=path), log)
    for event in heard:
        metrics(event)
    families = list(text_string_to_metric_families(path.read_text()))
    assert all(family.documentation.endswith(".") for family in families)
    for family in families:
        assert family.name.startswith("nimad")
        assert (family.type == "counter") == all(sample.name.endswith("_total") for sample in family.samples)
        assert not any(unit in family.name for unit in ("_mb", "_ms", "percent", "_minutes"))


def test_what_comes_late_and_what_fails_is_told(migrated: tuple[nimad.Settings, list[e.Event]], log: Log) -> None:
    settings, _ = migrated
    path = settings.metrics_file
    assert path is not None
    metrics = Metrics(settings, log)  # a service that was started anew
    metrics(e.Analyzing(str(settings.source)))
    assert value(read(path), "nimad_migrated_rows", table="memory_nodes") == 30, "from the state file"
    assert value(read(path), "nimad_quarantined_rows") == 1
    before = value(read(path), "nimad_last_success_timestamp_seconds")
    metrics(f.CaughtUp(2, 1, 0, 0, 0, 1, 32, 0.1))
    metrics(s.Looked(32))
    samples = read(path)
    assert phase(samples) == "following"
    assert value(samples, "nimad_late_memories_total", change="added") == 2
    assert value(samples, "nimad_migrated_rows", table="memory_nodes") == 32
    assert value(samples, "nimad_quarantined_rows") == 2
    assert value(samples, "nimad_last_success_timestamp_seconds") >= before
    metrics(e.BatchFailed(1, 4, "gone", 1.0, 0))
    metrics(e.BatchFailed(4, 4, "gone", None, 0))
    metrics(s.Postponed("no memory", 60.0, 75))
    samples = read(path)
    assert (value(samples, "nimad_retries_total"), value(samples, "nimad_failed_batches_total")) == (1, 1)
    assert (phase(samples), value(samples, "nimad_last_run_exit_code")) == ("postponed", 75)
    metrics.failed(DiskError("full"))
    samples = read(path)
    assert (phase(samples), value(samples, "nimad_last_run_exit_code")) == ("failed", 74)
    assert set(PHASES) == {dict(labels)["nimad_phase"] for name, labels in samples if name == "nimad_phase"}


def test_a_file_that_cannot_be_written_is_said_once_and_again_after_it_could(
    tmp_path: Path, log: Log, said: list[str]
) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    path = tmp_path / "folder" / "nimad.prom"
    metrics = Metrics(nimad.Settings(source=source, metrics_file=path), log)
    for _ in range(3):
        metrics(e.Analyzing(str(source)))
    (line,) = said
    assert line.endswith(f"The metrics file {path} cannot be written (No such file or directory); going on without")
    path.parent.mkdir()
    metrics(e.Analyzing(str(source)))
    assert phase(read(path)) == "analyzing"
    path.unlink()
    path.parent.rmdir()
    metrics(e.Analyzing(str(source)))
    assert len(said) == 2


def test_it_is_written_while_neither_the_memory_nor_its_folder_is_there(
    tmp_path: Path, log: Log, said: list[str]
) -> None:
    file = tmp_path / "nimad.prom"
    metrics = Metrics(nimad.Settings(source=tmp_path / "no/folder/graph.sqlite", metrics_file=file), log)
    metrics(s.Waiting("a memory", "there is none"))
    assert (phase(read(file)), said) == ("waiting", [])


def test_what_came_to_a_stop_has_no_rate_and_no_rest(tmp_path: Path, log: Log) -> None:
    file = tmp_path / "nimad.prom"
    metrics = Metrics(nimad.Settings(source=tmp_path / "graph.sqlite", metrics_file=file), log)
    ends: list[Callable[[], None]] = [lambda: metrics(s.Stopping()), lambda: metrics.failed(DiskError("full"))]
    for end in ends:
        metrics._figures.rows_per_s, metrics._figures.eta_s = 120.0, 17.0
        end()
        told = read(file)
        assert (value(told, "nimad_rows_per_second"), value(told, "nimad_eta_seconds")) == (0, 0)


def test_the_state_file_may_hold_anything(tmp_path: Path, log: Log) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    path = tmp_path / "nimad.prom"
    wrong = ['{"published": 7}', '{"published": {"MemoryNode": []}}', '{"published": {"MemoryNode": 1}, "versions": 1}']
    for text in wrong:
        state = text.replace("{", '{"format": 1, "phase": "complete", ', 1)
        (tmp_path / "graph.ladybug.state.json").write_text(state)
        Metrics(nimad.Settings(source=source, metrics_file=path), log)(e.Analyzing(""))
        assert phase(read(path)) == "analyzing"


def test_the_command_writes_them_and_a_failure_too(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(1)])
    config = tmp_path / "nimad.toml"
    config.write_text(f'[metrics]\nfile = "{tmp_path}/nimad.prom"\n[hooks]\non_complete = ["echo", "well done"]\n')
    words = [sys.executable, "-m", "nimad", "migrate", "--source", str(source), "--config", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "NIMA_HOME": ""})
    assert done.returncode == 0
    assert "[INFO] on_complete says: well done" in done.stdout
    assert phase(read(tmp_path / "nimad.prom")) == "complete"
    source.unlink()
    failed = subprocess.run([*words, "--replace"], capture_output=True, check=False)
    samples = read(tmp_path / "nimad.prom")
    assert (phase(samples), value(samples, "nimad_last_run_exit_code")) == ("failed", failed.returncode)
    assert value(samples, "nimad_migrated_rows", table="memory_nodes") == 1, "the target is still there"


def test_nothing_is_imported_for_what_is_off() -> None:
    code = (
        "import sys; from pathlib import Path; import nimad, nimad.cli.run; from nimad.report.log.sinks import Log;"
        "from nimad.report.metrics import Metrics; from nimad.events.run import Analyzing;"
        "Metrics(nimad.Settings(source=Path('/x')), Log('INFO', None, Path('/x')))(Analyzing('/x'));"
        "print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
