"""The agent as a test has it: a process with an engine of its own, told what to do step by step."""

import subprocess
from pathlib import Path
from typing import Any, Self

from support.agent.steps import Answer, Hold, Step, to_json
from support.environments import OURS, Engine

_TESTS = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(_TESTS)}
#: Seconds after which an agent that does not end is called stuck.
PATIENCE_S = 60.0


class DiedError(Exception):
    """The agent killed itself in the middle of a step, as it was told to."""


class Agent:
    """One agent over its two files. The databases are open only during a step."""

    def __init__(self, source: Path, target: Path, engine: Engine = OURS) -> None:
        self._command = [str(engine.python), "-m", "support.agent", engine.module, str(source), str(target)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.communicate(timeout=PATIENCE_S)

    def do(self, step: Step, *, die_after: int | None = None) -> Answer:
        """Do a step. Raises `DiedError` when `die_after` statements were less than it has."""
        self._send(to_json(step, die_after) + "\n")
        return self._read()

    def must(self, step: Step) -> Any:
        """Do a step that has to succeed; returns what it found or wrote."""
        answer = self.do(step)
        assert answer.ok, f"{step}: {answer.error}"
        return answer.value

    def hold(self) -> None:
        """Open the target, and keep it open until `release`."""
        answer = self.do(Hold())
        assert answer.ok, answer.error

    def release(self) -> None:
        """Close the target; returns once it is closed."""
        self._send("\n")
        self._read()

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def once(self, step: Step) -> "subprocess.CompletedProcess[str]":
        """Do a step in a process of its own, as the real agent does each; its exit status is 1 where it failed."""
        command = [*self._command, to_json(step)]
        return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False, cwd="/")

    def _send(self, line: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_ENVIRONMENT, text=True, cwd="/"
            )
        assert self._process.stdin
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _read(self) -> Answer:
        assert self._process
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return Answer.read(line)
        self.kill()
        raise DiedError
