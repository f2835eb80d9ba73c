"""The connection of the terminal: a run over ssh ends with it."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

#: What a remote shell has, and what one has whose terminal stays when the connection goes.
_REMOTE: Final = "SSH_CONNECTION"
_LASTING: Final = ("TMUX", "STY", "INVOCATION_ID")

HINT: Final = (
    "This run stops if the ssh connection ends, and goes on when it is started again. "
    "What outlives the connection: sudo systemctl start nima-migrate, or the same command in tmux"
)


def ends_with_us(environment: Mapping[str, str]) -> bool:
    """Whether this process would be told to stop by a connection that ends."""
    if not environment.get(_REMOTE) or any(environment.get(name) for name in _LASTING):
        return False
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()


def _has_terminal() -> bool:
    """Whether it has a controlling terminal, wherever its output goes."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False
