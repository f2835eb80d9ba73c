"""`python -m agent ENGINE SQLITE TARGET [STEP]`: the agent's process.

With a step, that is done, the answer printed, and the exit status is 1 where it failed, as a helper process of the
real one ends. Without, each line of stdin is a step, answered by a line on stdout. ENGINE is an import name.
"""

import json
import os
import signal
import sys
from typing import Any

from support.agent import ladybug_side, sqlite_side
from support.agent import steps as to_do
from support.agent.steps import BOTH, LADYBUG, SQLITE, Step


class Statements:
    """Counts statements, and kills this process before the one that comes after the last it may run."""

    def __init__(self, die_after: int | None) -> None:
        self._left = die_after

    def count(self) -> None:
        if self._left is not None:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


class Program:
    """One agent: its engine and its two files."""

    def __init__(self, module: str, source: str, target: str) -> None:
        self._module, self._source, self._target = module, source, target

    def answer(self, line: str) -> dict[str, Any]:
        step, die_after = to_do.from_json(line)
        statements = Statements(die_after)
        try:
            return {"ok": True, "value": self._do(step, statements)}
        except Exception as error:  # noqa: BLE001 - each part of the real one goes on after any error
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}

    def _do(self, step: Step, statements: Statements) -> Any:
        found = self._in_sqlite(step, statements) if _concerns(step, SQLITE) else None
        if not _concerns(step, LADYBUG) or (_concerns(step, SQLITE) and not os.path.exists(self._target)):  # noqa: PTH110
            return found
        with ladybug_side.opened(self._module, self._target, statements.count) as ask:
            return self._in_ladybug(ask, step)

    def _in_sqlite(self, step: Step, statements: Statements) -> Any:
        with sqlite_side.transaction(self._source, statements.count) as run:
            match step:
                case to_do.Store():
                    return sqlite_side.store(run, step)
                case to_do.Recall():
                    return sqlite_side.recall(run, step)
                case to_do.Prune():
                    return sqlite_side.prune(run, step)
                case to_do.Dream():
                    return sqlite_side.dream(run, step)
                case to_do.Backfill():
                    return sqlite_side.backfill(run, step)
                case to_do.Edit():
                    return sqlite_side.edit(run, step)
                case to_do.Forget():
                    return sqlite_side.forget(run, step)
                case _:
                    raise ValueError(step)

    def _in_ladybug(self, ask: ladybug_side.Ask, step: Step) -> Any:
        match step:
            case to_do.Store():
                return ladybug_side.store(ask, step)
            case to_do.Recall():
                return ladybug_side.recall(ask, step)
            case to_do.Prune():
                return ladybug_side.prune(ask, step)
            case to_do.Merge():
                return ladybug_side.merge(ask, step)
            case to_do.Capture():
                return ladybug_side.capture(ask, step)
            case to_do.Dream():
                return ladybug_side.dream(ask, step)
            case to_do.Backfill():
                return ladybug_side.backfill(ask, step)
            case to_do.Visible():
                return ladybug_side.visible(ask)
            case to_do.Search():
                return ladybug_side.search(ask, step)
            case to_do.Hold():
                say({"ok": True, "value": "holding"})
                return sys.stdin.readline().strip()
            case _:
                raise ValueError(step)


def _concerns(step: Step, side: str) -> bool:
    if isinstance(step, to_do.Edit | to_do.Forget):
        return side == SQLITE
    return getattr(step, "side", LADYBUG) in (side, BOTH)


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(module: str, source: str, target: str, step: str = "") -> int:
    program = Program(module, source, target)
    if step:
        answer = program.answer(step)
        say(answer)
        return 0 if answer["ok"] else 1
    for line in sys.stdin:
        say(program.answer(line))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
