"""How the tests are dealt out to processes: a file stays together, and so do those that let the kernel end processes.

The kernel counts what it ends for want of memory for the whole machine, so a plain SIGKILL elsewhere in that moment
would be taken for one of those. The longest files are dealt out first and the shortest last, so that no process is
left with a long one when the others have ended.
"""

import signal

import pytest
from environments import Index, MakeEnvironment

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
    *("test_sample.py", "test_journal.py", "test_config.py", "test_setup.py", "test_packaging.py", "test_rooms.py"),
)
RANK = {name: rank for rank, name in enumerate([*FIRST, "", *LAST])}


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or our programs would leave it ignored, as they should


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: RANK.get(item.path.name, RANK[""]))
    for item in items:
        name = item.path.name
        item.add_marker(pytest.mark.xdist_group("memory" if name in TOGETHER else name))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    return Index(tmp_path_factory.mktemp).make
