"""`nimad run` as the tests start it: with a socket at which it tells what it tells systemd."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.commands import command, environment

WAIT_S = 40.0


@dataclass
class Service:
    """A running one. `told`: each message as it came, with the moment; `log`: what it printed."""

    process: "subprocess.Popen[bytes]"
    log_file: Path
    told: list[tuple[float, str]] = field(default_factory=list)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def messages(self) -> list[str]:
        return [text for _, text in self.told]

    @property
    def statuses(self) -> list[str]:
        found = (re.search(r"^STATUS=(.*)$", text, re.MULTILINE) for text in self.messages)
        return [match[1] for match in found if match]

    def wait_for(self, what: Callable[[], bool], name: str = "it") -> None:
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < deadline, f"{name} never came: {self.statuses}\n{self.log}"
            assert self.process.poll() is None or what(), f"ended with {self.process.poll()}:\n{self.log}"
            time.sleep(0.02)

    def wait_for_status(self, pattern: str, *, after: int = 0) -> str:
        self.wait_for(lambda: any(re.search(pattern, text) for text in self.statuses[after:]), pattern)
        return next(text for text in self.statuses[after:] if re.search(pattern, text))

    def wait_for_message(self, word: str, *, after: int = 0) -> None:
        self.wait_for(lambda: any(word in text for text in self.messages[after:]), word)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def children(self) -> list[int]:
        """PIDs of its workers, of whichever of its threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def workers(self) -> list[int]:
        """Of its children, those that have become workers already."""
        return [pid for pid in self.children() if b"nimad.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def service(
    folder: Path, *words: str | Path, watchdog_s: float = 3.0, prefix: Sequence[str] = (), **more: str
) -> Iterator[Service]:
    """Start the service on `folder/graph.sqlite`, and stop it at the end."""
    address = f"@nimad-test-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
    log_file = folder / f"output-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, log_file.open("wb") as log:
        listening.bind(f"\0{address[1:]}")
        said = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))} | more
        process = subprocess.Popen(
            [*prefix, *command("run", "--source", folder / "graph.sqlite", *words)],
            env=environment(folder, **said),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running = Service(process, log_file)
        threading.Thread(target=_listen, args=(listening, running.told), daemon=True).start()
        try:
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(WAIT_S)
                finally:
                    process.kill()
                    process.wait()
            listening.shutdown(socket.SHUT_RDWR)


def _listen(listening: socket.socket, told: list[tuple[float, str]]) -> None:
    try:
        while message := listening.recv(65_536):
            told.append((time.monotonic(), message.decode()))
    except OSError:
        return
