"""How the tests are dealt out to processes: a file stays together, and so do those that let the kernel end processes.

The kernel counts what it ends for want of memory for the whole machine, so a plain SIGKILL elsewhere in that moment
would be taken for one of those.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from environments import Index, MakeEnvironment

#: Files whose tests run one after the other in one process.
TOGETHER = {"test_ends.py", "test_memory.py", "test_poison.py"}


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or our programs would leave it ignored, as they should


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        name = Path(item.path).name
        item.add_marker(pytest.mark.xdist_group("memory" if name in TOGETHER else name))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    return Index(tmp_path_factory.mktemp).make
