"""A worker as the supervisor sees it: started early, given one job, watched until it ends."""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from nimad.errors import StoppedError
from nimad.worker.job import Failure, Job

#: Seconds between looks at the stop flag while a worker works.
_POLL_S = 0.1
#: Seconds that a worker may go on with its batch after a stop was asked for, and then to heed SIGTERM.
STOP_GRACE_S = 5.0
TERMINATE_GRACE_S = 2.0
#: Bytes of a worker's stderr that are kept: its end, where a stack stands.
_STDERR_KEPT = 64 * 1024

#: What a worker inherits of the environment. Everything else, secrets and systemd's sockets among it, stays here.
_PASSED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"})
_PASSED_PREFIXES = ("LC_", "LD_", "PYTHON", "MALLOC_")


@dataclass(frozen=True)
class Answer:
    """How a worker ended, and what it said. `failure` is None when it did its job."""

    failure: Failure | None = None
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    stack: str = ""  # the end of its stderr, when it failed
    signal: int | None = None  # that ended it

    @property
    def ok(self) -> bool:
        return self.failure is None and not self.message


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}


class Child:
    """One worker process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", "-m", "nimad.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=child_environment(os.environ),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def work(self, job: Job, stop: threading.Event) -> Answer:
        """Hand over the job and wait for the end. Raises `StoppedError` when `stop` is set meanwhile."""
        self._hand_over(job)
        try:
            output, errors, stopped = self._collect(stop)
        except BaseException:  # a caller without signal handlers gets its KeyboardInterrupt, and leaves no worker
            self.dismiss()
            raise
        status = self._process.wait()
        if stopped and status != 0:
            raise StoppedError("stopped")
        return _judge(status, output, errors)

    def dismiss(self) -> None:
        """End a worker that is not needed."""
        if self._process.stdin:
            self._process.stdin.close()
        self._end(TERMINATE_GRACE_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def _hand_over(self, job: Job) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for above
        try:
            self._process.stdin.write(job.to_line().encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died while waiting: its exit status will say how

    def _collect(self, stop: threading.Event) -> tuple[bytes, bytes, bool]:
        """Read both streams to their ends. Once `stop` is set, wait a little, then end the worker."""
        process, chunks = self._process, {"out": bytearray(), "err": bytearray()}
        deadline: float | None = None
        with selectors.DefaultSelector() as selector:
            for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
                assert stream is not None  # noqa: S101 - a pipe was asked for above
                selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select(_POLL_S):
                    data = os.read(key.fd, 65_536)
                    if not data:
                        selector.unregister(key.fileobj)
                    chunks[key.data] += data
                del chunks["err"][:-_STDERR_KEPT]
                if stop.is_set():
                    deadline = deadline or time.monotonic() + STOP_GRACE_S
                    if time.monotonic() > deadline:
                        self._end(TERMINATE_GRACE_S)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        return bytes(chunks["out"]), bytes(chunks["err"]), deadline is not None

    def _end(self, grace_s: float) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _judge(status: int, output: bytes, errors: bytes) -> Answer:
    stack = errors.decode(errors="replace").strip()
    try:
        facts = json.loads(output) if output.endswith(b"\n") else None
    except ValueError:
        facts = None
    if status < 0:
        return Answer(Failure.UNEXPECTED, f"the worker was ended by {_signal_name(-status)}", {}, stack, -status)
    if not isinstance(facts, dict):
        return Answer(Failure.UNEXPECTED, f"the worker ended with status {status} and no answer", {}, stack)
    if facts.get("ok"):
        return Answer(None, "", facts)
    return Answer(Failure(facts["failure"]), facts["message"], facts, stack)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Workers:
    """Gives each job a fresh process. The next one is started early, so that its imports cost no time."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._next: Child | None = None

    def __enter__(self) -> Self:
        self.prepare()
        return self

    def __exit__(self, *_: object) -> None:
        if self._next is not None:
            self._next.dismiss()
            self._next = None

    def prepare(self) -> None:
        """Have a worker waiting."""
        if self._next is None:
            self._next = Child()

    def do(self, job: Job, *, last: bool = False) -> Answer:
        """Do one job in a fresh process. Raises `StoppedError` once a stop was asked for."""
        if self._stop.is_set():
            raise StoppedError("stopped")
        child, self._next = self._next or Child(), None
        if not last:
            self.prepare()
        return child.work(job, self._stop)

    def pause(self, seconds: float) -> None:
        """Wait between two tries. Raises `StoppedError` when a stop is asked for meanwhile."""
        if self._stop.wait(seconds):
            raise StoppedError("stopped")
