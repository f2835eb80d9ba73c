#!/usr/bin/env python3
"""Migrate NIMA's memory from SQLite into LadybugDB: the old script's name and options, nimad's work.

    python3 migrate_to_ladybug.py [--batch-size SIZE] [--dry-run] [--start-offset N] [--auto]

This is `nimad migrate` with the same options, and its output. Where nimad works on the memory already, as the service
does, this waits for it and shows its lines.

With --auto, as nima-core's start-up hook calls it, it is back after nine minutes, because the hook gives it ten: a run
of the service goes on by itself, any other stops at a checkpoint and goes on at the next start.

Exit codes: 0, the target is there and complete, or nothing is to be done; 75, stopped, run it again to go on; 69,
nimad or LadybugDB is missing; any other as nimad's. With --auto, 0 also where some rows were set aside (nimad's 1): the
target is there, and the output and migration.log name them.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent))  # which `-I` and PYTHONSAFEPATH leave out

import nimad_program
from nimad_program import say, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds after which a start-up hook gets its answer; it gives us 600.
LIMIT_S = 540.0
#: Seconds in which nimad stops: a worker may end its batch, 5 s, is ended itself, 2 s, and a Pi is slow.
STOPPING_S = 45.0
#: Seconds in which an active service begins. OpenClaw's file alone takes some to be read on a Pi.
BEGINNING_S = 15.0
#: Seconds between looks at whoever works.
POLL_S = 0.5
#: Exit codes of nimad's that are looked at here.
COMPLETE, QUARANTINED, INTERRUPTED = 0, 1, 75
#: How long a line of the log may be to be shown in parts.
_READ_BYTES = 1 << 16


class Places(NamedTuple):
    """Files of the memory, as nimad is set up."""

    target: Path
    log: Path

    @property
    def lock(self) -> Path:
        return Path(f"{self.target}.lock")

    @property
    def paused(self) -> Path:
        return Path(f"{self.target}.paused")


class Child:
    """The nimad that we started, and what we were asked to do meanwhile."""

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` has it
                signal.signal(number, self._pass_on)

    def run(self, command: Sequence[str], deadline: float | None) -> int:
        """Run nimad to its end, or to the deadline, at which it stops at a checkpoint; return its exit code."""
        self._process = subprocess.Popen(command, env=nimad_program.environment(), stdin=subprocess.DEVNULL)
        try:
            code = self._process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._stop(self._process)
        finally:
            self._process = None
        if code < 0:
            say("ERROR", f"nimad was ended by signal {-code}; everything counted is kept, run it again to go on")
            return INTERRUPTED
        return code

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        process.terminate()
        try:
            process.wait(STOPPING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        say(
            "WARN",
            f"Stopped after {LIMIT_S / 60:.0f} minutes, because the start-up hook gives no more than ten. Everything "
            f"counted is kept: the next start goes on from there, or go on now with: {nimad_program.line('migrate')}",
        )
        return INTERRUPTED

    def _pass_on(self, number: int, _: Any) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(number)


class Tail:
    """What a file gets from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._at = self._stamp()

    def show(self) -> None:
        inode, size = self._stamp()
        if inode != self._inode or size < self._at:  # moved away, and rebuilt
            self._inode, self._at = inode, 0
        if size <= self._at:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                text = file.read(_READ_BYTES)
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1] or (text if len(text) == _READ_BYTES else b"")
        self._at += len(whole)
        tell(whole.decode("utf-8", "replace"), sys.stdout)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_ino, status.st_size


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    deadline = time.monotonic() + LIMIT_S if options.auto else None
    child = Child()
    try:
        program = nimad_program.find()
    except nimad_program.NotInstalledError as error:
        say("ERROR", str(error))
        return nimad_program.NOT_INSTALLED
    command = [*program, "migrate", *_words(options)]
    if options.dry_run:  # which looks beside whoever works
        return child.run(command, deadline)
    ask = [*program, "config", "--json"]
    asked = subprocess.run(ask, stdout=subprocess.PIPE, env=nimad_program.environment(), check=False)
    if asked.returncode:
        return asked.returncode
    code = _migrate(command, _places(asked.stdout), child, deadline)
    return COMPLETE if options.auto and code == QUARANTINED else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Migrate NIMA's memory from SQLite into LadybugDB, with nimad.",
        epilog="Everything else that nimad can do: nimad --help",
    )
    parser.add_argument("--batch-size", type=int, metavar="SIZE", help="nodes in the first batch  [500]")
    parser.add_argument("--dry-run", action="store_true", help="read and convert everything, write nothing")
    parser.add_argument("--start-offset", type=int, metavar="N", help="never needed: a run goes on by itself")
    parser.add_argument("--auto", action="store_true", help="for the plugin: do what OpenClaw's file asks for")
    return parser


def _words(options: argparse.Namespace) -> list[str]:
    words = [] if options.batch_size is None else ["--batch-size", str(options.batch_size)]
    words += [] if options.start_offset is None else ["--start-offset", str(options.start_offset)]
    return [*words, *(["--dry-run"] if options.dry_run else []), *(["--auto"] if options.auto else [])]


def _places(answer: bytes) -> Places:
    found = {(row["table"], row["key"]): row["value"] for row in json.loads(answer)}
    target, log = (_path(found[key]) for key in (("target", "path"), ("log", "file")))
    return Places(target, log)


def _path(name: str) -> Path:
    """The file of this name, which is UTF-8 whatever this Python takes names for."""
    return Path(os.fsdecode(name.encode("utf-8", "surrogateescape")))


def _migrate(command: Sequence[str], places: Places, child: Child, deadline: float | None) -> int:
    """Have the memory migrated: by whoever works on it already, or by a nimad of our own."""
    if deadline is not None and os.path.lexists(places.paused):
        say("WARN", f"{places.target} is paused, so nothing is done; go on with: {nimad_program.line('resume')}")
        return INTERRUPTED
    _let_the_service_begin(places, child)
    while not child.stopped:
        holder = _holder(places.lock)
        if holder is not None and not _wait_for(holder, places, child, deadline):
            break
        code = child.run(command, deadline)
        if code != INTERRUPTED or child.stopped or _is_over(deadline) or _holder(places.lock) is None:
            return code
    return INTERRUPTED


def _let_the_service_begin(places: Places, child: Child) -> None:
    """Where a service of this user's is active, it is to do it: nobody ends that one after ten minutes."""
    if os.path.lexists(places.target) or _holder(places.lock) is not None:
        return
    unit = _active_service()
    if unit is None:
        return
    say("INFO", f"The service {unit} is active; waiting for it to begin")
    until = time.monotonic() + BEGINNING_S
    while time.monotonic() < until and not child.stopped:
        if os.path.lexists(places.target) or _holder(places.lock) is not None:
            return
        time.sleep(POLL_S)


def _active_service() -> str | None:
    """The unit that migrates for this user."""
    me = pwd.getpwuid(os.getuid()).pw_name
    for scope, unit in (((), "nima-migrate"), ((), f"nima-migrate@{me}"), (("--user",), "nima-migrate")):
        try:
            shown = subprocess.run(
                ["systemctl", *scope, "show", "--property=ActiveState,User", unit],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=BEGINNING_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = shown.stdout.decode("utf-8", "replace").splitlines()
        is_active = "ActiveState=active" in lines or "ActiveState=activating" in lines
        if is_active and (scope or f"User={me}" in lines):
            return unit
    return None


def _wait_for(holder: int, places: Places, child: Child, deadline: float | None) -> bool:
    """Show what the nimad that works says, until it has ended. False when we may not wait any longer."""
    tail = Tail(places.log)
    say("INFO", f"nimad (PID {holder}) is working on {places.target} already; waiting for it, its lines follow")
    while _holder(places.lock) is not None:
        tail.show()
        if child.stopped:
            say(
                "WARN",
                f"nimad (PID {holder}) goes on by itself; follow it with: tail -f {shlex.quote(str(places.log))}",
            )
            return False
        if _is_over(deadline):
            say(
                "WARN",
                f"nimad (PID {holder}) goes on by itself; only the start-up hook waits no longer. Follow it with: "
                f"tail -f {shlex.quote(str(places.log))}",
            )
            return False
        time.sleep(POLL_S)
    tail.show()
    return True


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _holder(lock: Path) -> int | None:
    """The PID of the nimad that works on the target. The kernel says whether the lock is held, its file by whom.

    Looked up and not tried, or for a moment we would be the one who has it.
    """
    try:
        with lock.open(encoding="ascii") as file:
            pid, inode = int(file.read(32)), os.fstat(file.fileno()).st_ino
        with Path("/proc/locks").open(encoding="ascii") as locks:
            held = any(line.split()[5].endswith(f":{inode}") for line in locks if "->" not in line)
    except (OSError, ValueError, IndexError):
        return None
    return pid if held else None


if __name__ == "__main__":
    sys.exit(main())
