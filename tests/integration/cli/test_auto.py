"""`nimad migrate --auto`: OpenClaw's file is asked for consent and batch size, and is never written to."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.commands import Ran, nimad

from nimad.sample import Sample, write_sample

#: What the gateway's file holds when it asks for a migration, as people write it: JSON5.
ASKING = """// OpenClaw
{
  plugins: {
    entries: {
      /* the memory */ 'nima-memory': {
        enabled: true,
        config: {
          database: {
            backend: "ladybugdb",   // was "sqlite"
            auto_migrate: true,
            migration_batch_size: 7,
          },
        },
      },
    },
  },
}
"""


def database(**values: object) -> str:
    return entry(config={"database": values})


def entry(**values: object) -> str:
    return json.dumps({"plugins": {"entries": {"nima-memory": values}}})


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "graph.sqlite"
    write_sample(path, Sample(nodes=30, dimension=8, shape="2.2"))
    return path


@pytest.fixture
def home(sample: Path, tmp_path: Path) -> Path:
    """A home with a memory and no configuration."""
    (tmp_path / ".nima/memory").mkdir(parents=True)
    shutil.copy(sample, tmp_path / ".nima/memory/graph.sqlite")
    return tmp_path


def configured(home: Path, text: str) -> Path:
    path = home / ".openclaw/openclaw.json"
    path.parent.mkdir()
    path.write_text(text)
    return path


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def assert_migrated(done: Ran, home: Path, batch_size: int) -> None:
    assert (done.code, done.err) == (0, "")
    assert f"[INFO] Batch size: {batch_size} nodes\n" in done.out
    assert done.out.endswith("✅ Migration completed successfully!\n")
    assert (home / ".nima/memory/ladybug.lbug").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, r"\.openclaw/openclaw\.json does not exist"),
        ("{}", r"database\.backend is not set; it must be \"ladybugdb\""),
        (entry(enabled=True), r"database\.backend is not set; it must be \"ladybugdb\""),
        (database(backend="sqlite", auto_migrate=True), r"database\.backend is \"sqlite\", not \"ladybugdb\""),
        (database(backend="ladybugdb", auto_migrate=False), r"database\.auto_migrate is not true"),
        (database(backend="ladybugdb"), r"database\.auto_migrate is not true"),
        (ASKING.replace("enabled: true", "enabled: false"), r"plugins\.entries\[\"nima-memory\"\]\.enabled is false"),
        (
            ASKING.replace("entries: {", "slots: {memory: 'memory-core'}, entries: {"),
            r"plugins\.slots\.memory is \"memory-core\", not \"nima-memory\"",
        ),
    ],
    ids=["no file", "no plugins", "no database", "sqlite", "not automatic", "automatic not set", "plugin off", "slot"],
)
def test_unless_both_conditions_are_met_nothing_happens(home: Path, text: str | None, why: str) -> None:
    if text is not None:
        configured(home, text)
    before = everything_in(home)
    done = nimad(home, "migrate", "--auto")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rf"\[[-\d]+ [:\d]+\] \[INFO\] Nothing to do: .*{why}\n", done.out)
    assert everything_in(home) == before


def test_a_home_without_a_memory_is_no_error_when_nothing_is_asked_for(tmp_path: Path) -> None:
    done = nimad(tmp_path, "migrate", "--auto", "--json")
    assert done.code == 0
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["NothingToDo"]
    assert everything_in(tmp_path) == {}


def test_when_asked_it_migrates_once_with_the_batch_size_of_the_file(home: Path) -> None:
    """JSON5 with comments, single quotes and trailing commas; the gateway starts twice."""
    path = configured(home, ASKING)
    before = path.stat(), sorted(path.parent.iterdir())
    first = nimad(home, "migrate", "--auto")
    assert_migrated(first, home, batch_size=7)
    second = nimad(home, "migrate", "--auto")
    assert second.code == 0
    assert "[INFO] Nothing to do: " in second.out
    assert "ladybug.lbug is complete: 30 memories" in second.out
    assert (path.stat().st_mtime_ns, path.read_text()) == (before[0].st_mtime_ns, ASKING)
    assert sorted(path.parent.iterdir()) == before[1]


def test_a_file_as_the_old_guide_has_it_is_understood(home: Path) -> None:
    """Releases of OpenClaw before 2026.9 take it so."""
    configured(home, entry(database={"backend": "ladybugdb", "auto_migrate": True, "migration_batch_size": 7}))
    done = nimad(home, "migrate", "--auto", "--nodes-only", "--verify", "none")
    assert_migrated(done, home, batch_size=7)


def test_without_a_batch_size_in_the_file_the_default_holds(home: Path) -> None:
    configured(home, database(backend="ladybugdb", auto_migrate=True))
    done = nimad(home, "migrate", "--auto", "--nodes-only", "--verify", "none")
    assert_migrated(done, home, batch_size=500)


def test_what_is_typed_wins_over_the_file(home: Path) -> None:
    configured(home, ASKING)
    done = nimad(home, "migrate", "--auto", "--batch-size", "20", "--nodes-only", "--verify", "none")
    assert_migrated(done, home, batch_size=20)


def test_another_file_may_be_named_in_the_environment(home: Path) -> None:
    configured(home, database(backend="sqlite"))
    (home / "claw.json5").write_text(ASKING)
    done = nimad(home, "migrate", "--auto", "--dry-run", OPENCLAW_CONFIG_PATH="~/claw.json5")
    assert done.code == 0
    assert "[INFO] Batch size: 7 nodes\n" in done.out


def test_asked_for_a_memory_that_is_not_there_it_says_so(home: Path) -> None:
    configured(home, ASKING)
    (home / ".nima/memory/graph.sqlite").unlink()
    done = nimad(home, "migrate", "--auto")
    assert done.code == 2
    assert "there is no memory at" in done.error


def test_without_auto_the_file_is_not_even_read(home: Path) -> None:
    configured(home, "this is no JSON")
    done = nimad(home, "migrate", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "[INFO] Batch size: 500 nodes\n" in done.out
