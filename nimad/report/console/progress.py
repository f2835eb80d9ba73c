"""The console: plain lines in a pipe, a progress bar on a terminal."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nimad.events import run as e
from nimad.report.messages.run_messages import RULE

if TYPE_CHECKING:
    from rich.progress import TaskID


class Console:
    """Where lines go that a person reads while a run goes on. Losing the reader does not stop the run."""

    def __init__(self) -> None:
        self._bar = _Bar() if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """One line, above the bar if there is one."""
        if self._bar:
            self._bar.say(line)
            return
        write(line)

    def title(self, text: str) -> None:
        for line in (RULE, text, RULE):
            self.say(line)

    def show(self, event: e.Event) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.show(event)


def write(line: str) -> None:
    """One line on stdout."""
    print(line, flush=True)  # noqa: T201 - this is the console


class _Bar:
    """A progress bar that lines can be printed above."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task: TaskID | None = None
        self._table = ""

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def show(self, event: e.Event) -> None:
        if isinstance(event, e.Started):
            self._progress.start()
        elif isinstance(event, e.BatchLoaded):
            self._advance(event.table, event.done, event.of)
        elif isinstance(event, e.Verifying):
            self._advance("verifying", 0, None)
        elif isinstance(event, (e.Published, e.NothingToDo)):
            self.stop()

    def stop(self) -> None:
        self._progress.stop()

    def _advance(self, name: str, done: int, of: int | None) -> None:
        if self._task is not None and self._table != name:
            self._progress.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._table, self._task = name, self._progress.add_task(name.removeprefix("memory_"), total=of)
        self._progress.update(self._task, completed=done, total=of)
