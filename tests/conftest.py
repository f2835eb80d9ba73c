"""How the tests are dealt out to processes: a file stays together, and so do those that let the kernel end processes.

The kernel counts what it ends for want of memory for the whole machine, so a plain SIGKILL elsewhere in that moment
would be taken for one of those. The longest files are dealt out first and the shortest last, so that no process is
left with a long one when the others have ended.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import locales
from support.environments import Index, MakeEnvironment
from support.following import follow, made, source
from support.users import BOB, REACH, as_alice, folder_of, words_that_open

__all__ = ["follow", "made", "source"]  # fixtures

#: Files whose tests run one after the other in one process.
TOGETHER = {"test_ends.py", "test_memory.py", "test_poison.py"}
#: The longest ones, of a minute or two each, and those of a few seconds; what is not named comes between them.
FIRST = (
    *(*sorted(TOGETHER), "test_disk_full.py", "test_late_writer.py", "test_service.py", "test_following.py"),
    *("test_damaged_source.py", "test_repair.py", "test_rights.py", "test_kills.py", "test_power_cuts.py"),
    *("test_source_changes.py", "test_resume.py", "test_quarantine_command.py", "test_verification.py"),
)
LAST = (
    *("test_auto.py", "test_pausing.py", "test_salvage.py", "test_values.py", "test_log.py", "test_stacks.py"),
    *("test_sample.py", "test_journal.py", "test_config.py", "test_setup.py", "test_packaging.py"),
)
RANK = {name: rank for rank, name in enumerate([*FIRST, "", *LAST])}


# What a shell passes on to what it starts, and our programs leave as it is, as they should.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.umask(0o022)


def pytest_configure(config: pytest.Config) -> None:
    """Only where tests run: the processes of xdist would start in the locale themselves, and the tests' own engine."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        locales.inherited()


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what was not asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _sample(items)
    items.sort(key=lambda item: RANK.get(item.path.name, RANK[""]))
    for item in items:
        name = item.path.name
        item.add_marker(pytest.mark.xdist_group("memory" if name in TOGETHER else name))


def _sample(items: list[pytest.Item]) -> None:
    """Of what is to be sampled, every set of parameters but the first is for the long run."""
    seen = set()
    for item in items:
        if item.get_closest_marker("sampled"):
            name = item.nodeid.partition("[")[0]
            if name in seen:
                item.add_marker(pytest.mark.long)
            seen.add(name)


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    return Index(tmp_path_factory.mktemp).make


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder of root's that everybody may enter; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="nimad-rights-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def bobs(ground: Path) -> Path:
    return folder_of(BOB, ground / "bob")


@pytest.fixture(scope="session")
def reaching(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words before a command that let other users reach the interpreter, wherever root keeps it.

    In a folder such as /root it is closed to them: then the command gets a view of the disk of its own, in which that
    folder holds nothing but the interpreter and is open.
    """
    if not as_alice(sys.executable, "-c", REACH):
        return []
    prefix = words_that_open([tmp_path_factory.mktemp(f"aside{number}") for number in range(3)])
    if why := as_alice(sys.executable, "-c", REACH, prefix=prefix):
        pytest.skip(f"other users cannot reach {sys.executable}, and it cannot be opened to them here: {why}")
    return prefix
