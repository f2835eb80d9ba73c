"""A worker process: started early, given one job, watched until it ends."""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nimad.engines.interpreter import Interpreter
from nimad.engines.packages import MODULE
from nimad.errors import StoppedError
from nimad.host import cgroup, rights
from nimad.supervisor.outcome import ExitStatus, WorkerResult, classify
from nimad.supervisor.timeout import FLOOR_S
from nimad.worker import boot
from nimad.worker.protocol import Job, Task

#: Seconds between looks at the stop flag while a worker works.
_POLL_S = 0.1
#: Seconds that a worker may go on with its batch after a stop was asked for, and then to heed SIGTERM.
STOP_GRACE_S = 5.0
#: What only makes or reads a copy is ended at once.
_TO_BE_THROWN_AWAY = (Task.COMPACT, Task.COMPARE_TARGETS)
TERMINATE_GRACE_S = 2.0
#: Seconds that a worker which hangs has for writing its stacks.
ABORT_GRACE_S = 5.0
#: Bytes of an answer, and seconds that one who ended is read on: the agent's interpreter may run a program of its own.
_ANSWER_KEPT = 256 * 1024**2
_PIPES_S = 1.0
#: Bytes of a worker's stderr that are kept: its end, where a stack stands.
_STDERR_KEPT = 64 * 1024

#: Our own interpreter for workers, and the program as its arguments.
PYTHON = sys.executable
WORKER = ("-P", "-m", "nimad.worker")


@dataclass(frozen=True)
class Launch:
    """How a worker is started: in which interpreter, with which engine, and how it stands against other programs."""

    interpreter: Interpreter = field(default_factory=Interpreter)
    module: str = MODULE
    priority: str = "normal"

    def command(self) -> list[str]:
        ours = self.interpreter.is_ours
        program = [PYTHON, *WORKER] if ours else [self.interpreter.python, "-P", boot.__file__]
        return [*program, str(os.getpid()), self.module, self.priority]


class WorkerProcess:
    """One worker process."""

    def __init__(self, launch: Launch) -> None:
        self._process = subprocess.Popen(
            launch.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=launch.interpreter.environment(),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def work(self, job: Job, stop: threading.Event, limit_s: float) -> WorkerResult:
        """Hand over the job and wait for the end. Raises `StoppedError` when `stop` is set meanwhile.

        After a PROBE that went well the worker is still there, and takes one more job.
        """
        oom_kills = cgroup.oom_kills()
        watch = _Watch(self._process, job, stop, limit_s)
        try:
            output, errors = watch.until_it_is_done()
        except BaseException:  # a caller without signal handlers gets its KeyboardInterrupt, and leaves no worker
            self.dismiss()
            raise
        if watch.waits_again:
            return classify(ExitStatus(0, output, errors))
        status = self._process.wait()
        if watch.stopped and status != 0:
            raise StoppedError("stopped")
        overrun = limit_s if watch.overrun else None
        return classify(ExitStatus(status, output, errors, overrun, cgroup.oom_kills() - oom_kills))

    def dismiss(self) -> None:
        """End a worker that is not needed."""
        process = self._process
        if process.stdin:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(TERMINATE_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def _end_group(pid: int) -> None:
    """End what a worker left in the session that it led, whose number nobody else has while one is in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Watch:
    """Gives a worker its job, reads what it says until it has ended, and ends it when its time is over.

    Or when a stop is asked for. No step waits for the worker: one that was halted takes no job either. One that is
    asked which engine it has stays, and is read until it has answered.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", job: Job, stop: threading.Event, limit_s: float) -> None:
        self._process, self._job, self._stop = process, memoryview(job.to_line().encode()), stop
        self._stays = job.task is Task.PROBE
        self._grace_s = 0.0 if job.task in _TO_BE_THROWN_AWAY else STOP_GRACE_S
        self._signals = [(time.monotonic() + limit_s, signal.SIGABRT)]  # what is sent next, and when
        self._ended_at = 0.0
        self.stopped = self.overrun = self.waits_again = False

    def until_it_is_done(self) -> tuple[bytes, bytes]:
        chunks = {"out": bytearray(), "err": bytearray()}
        with selectors.DefaultSelector() as selector:
            for stream, name in ((self._process.stdout, "out"), (self._process.stderr, "err")):
                assert stream is not None  # noqa: S101 - a pipe was asked for when it was started
                selector.register(stream, selectors.EVENT_READ, name)
            self._offer(selector)
            while (selector.get_map() and not self._has_left()) or self._process.poll() is None:
                for key, _ in selector.select(_POLL_S if selector.get_map() else 0):
                    if key.data == "job":
                        self._hand_over(selector)
                        continue
                    data = os.read(key.fd, 65_536)
                    if not data:
                        selector.unregister(key.fileobj)
                    chunks[key.data] += data
                if len(chunks["out"]) > _ANSWER_KEPT:
                    chunks["out"].clear()  # no answer of ours is that long
                    self._process.kill()
                del chunks["err"][:-_STDERR_KEPT]
                if self._stays and not self._job and _is_success(chunks["out"]):
                    self.waits_again = True
                    return bytes(chunks["out"]), bytes(chunks["err"])
                if self._job and self._process.poll() is not None:  # a child of its own keeps the pipe open
                    self._withdraw(selector)
                if not selector.get_map():
                    self._wait_a_little()
                self._keep_time()
            if selector.get_map():
                _end_group(self._process.pid)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        return bytes(chunks["out"]), bytes(chunks["err"])

    def _has_left(self) -> bool:
        """Whether it ended a while ago, and what it left behind keeps the pipes open."""
        if self._process.poll() is None:
            return False
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        return now > self._ended_at + _PIPES_S

    def _offer(self, selector: selectors.BaseSelector) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for when it was started
        os.set_blocking(self._process.stdin.fileno(), False)
        selector.register(self._process.stdin, selectors.EVENT_WRITE, "job")

    def _hand_over(self, selector: selectors.BaseSelector) -> None:
        """Write as much of the job as the worker's pipe takes."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._job = self._job[os.write(self._process.stdin.fileno(), self._job) :]
        except BrokenPipeError:  # it died while waiting: its exit status will say how
            self._job = self._job[:0]
        if not self._job:
            self._withdraw(selector)

    def _withdraw(self, selector: selectors.BaseSelector) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._job = self._job[:0]
        selector.unregister(self._process.stdin)
        if not self._stays:
            self._process.stdin.close()

    def _wait_a_little(self) -> None:
        """It has closed its streams, so it is about to end, or hangs on its way out."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL_S)

    def _keep_time(self) -> None:
        if not self._signals:  # killed, and still there: nothing can be done, and no sign of life is given for it
            return
        now = time.monotonic()
        if self._stop.is_set() and not self.stopped:
            self.stopped = True
            at = now + self._grace_s
            self._signals = [(at, signal.SIGTERM), (at + TERMINATE_GRACE_S, signal.SIGKILL)]
        if self._signals and now > self._signals[0][0]:
            _, number = self._signals.pop(0)
            self._process.send_signal(number)
            if number == signal.SIGABRT:
                self.overrun = True
                self._process.send_signal(signal.SIGCONT)  # one that was halted has to run to die
                self._signals.append((now + ABORT_GRACE_S, signal.SIGKILL))


def _is_success(output: bytes | bytearray) -> bool:
    """Whether a worker has answered to the end of the line that it did its job."""
    return output.endswith(b"\n") and classify(ExitStatus(0, bytes(output), b"")).ok


class Clock:
    """Time as it passes."""

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait so many seconds, or until `stop` is set; whether it is."""
        return stop.wait(seconds)


class WorkerPool:
    """Gives each job a fresh process. The next one is started early, so that its imports cost no time.

    Only one that was asked which engine it has, and has touched no file, serves for the job after that.
    """

    def __init__(self, stop: threading.Event, clock: Clock | None = None, launch: Launch | None = None) -> None:
        self.stop, self._clock, self._launch = stop, clock or Clock(), launch or Launch()
        self._next: WorkerProcess | None = None
        self.early = True  # False: memory is too short for one that waits

    def __enter__(self) -> Self:
        self.prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def prepare(self) -> None:
        """Have a worker waiting, where there is memory for one."""
        if self._next is None and self.early:
            self._next = WorkerProcess(self._launch)

    def start_in(self, launch: Launch) -> None:
        """From now on start each worker like this. One that waits already is kept where it is such a one."""
        if launch != self._launch:
            self._dismiss()
            self._launch = launch
        self.prepare()

    def rest(self) -> None:
        """Have no worker waiting for the time being."""
        self._dismiss()

    def start_late(self) -> None:
        """From now on start each worker only when there is work: a waiting one takes memory too."""
        self.early = False
        self._dismiss()

    def do(self, job: Job, *, limit_s: float = FLOOR_S, last: bool = False) -> WorkerResult:
        """Do one job in a fresh process. Raises `StoppedError` once a stop was asked for."""
        if self.stop.is_set():
            raise StoppedError("stopped")
        for path in (job.source, job.target):
            if path:  # the engine opens no file of another user's as root, whatever came before
                rights.check_own(Path(path))
        child, self._next = self._next or WorkerProcess(self._launch), None
        if job.task is Task.PROBE:
            answer = child.work(job, self.stop, limit_s)
            self._next = child if answer.ok else None
            return answer
        if not last:
            self.prepare()
        return child.work(job, self.stop, limit_s)

    def pause(self, seconds: float) -> None:
        """Wait between two tries. Raises `StoppedError` when a stop is asked for meanwhile."""
        if self._clock.wait(self.stop, seconds):
            raise StoppedError("stopped")

    def _dismiss(self) -> None:
        if self._next is not None:
            self._next.dismiss()
            self._next = None
