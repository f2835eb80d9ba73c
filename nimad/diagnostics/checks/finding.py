"""A finding of a check, and what the checks share."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

from nimad.config import Settings
from nimad.errors import NimadError
from nimad.host import rights
from nimad.host.deadline import within
from nimad.source.header import check_source
from nimad.source.sqlite_file import SourceFile
from nimad.source.survey import Survey, survey
from nimad.state.paths import Files
from nimad.supervisor.plan import Plan, make_plan

#: Seconds that a look at a memory, and at the agent's interpreters, may take: a doctor who takes longer is not asked.
READING_S, ASKING_S = 15.0, 20.0


class Verdict(IntEnum):
    """How grave a finding is; the worst of all is the exit code."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, what was found, and the command, or the lines, that mend it."""

    check: str
    verdict: Verdict
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check, Verdict.OK, text)


def warning(check: str, text: str, remedy: str = "") -> Finding:
    return Finding(check, Verdict.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str = "") -> Finding:
    return Finding(check, Verdict.PROBLEM, text, remedy)


class Examined:
    """The memory that is looked at. What several checks need is found out once, when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.files = Files.of(settings)

    @property
    def owned(self) -> Path:
        """A file or folder of whoever the memory belongs to."""
        places = (self.settings.source, *self.settings.source.parents)
        return next(place for place in places if place.exists()) if self.settings.source.exists() else Path.home()

    @property
    def survey(self) -> Survey:
        """What the source holds. Raises a `NimadError` where it cannot be read, or not in time."""
        if isinstance(self._surveyed, NimadError):
            raise self._surveyed
        return self._surveyed

    @cached_property
    def _surveyed(self) -> Survey | NimadError:
        try:
            rights.check_own(self.settings.source)
            check_source(self.settings.source)
            with within(READING_S) as stop:
                return survey(SourceFile(self.settings.source, stop))
        except NimadError as error:
            return error

    @cached_property
    def plan(self) -> Plan | None:
        """What a run would plan with; None where the source cannot be read."""
        found = self._surveyed
        return None if isinstance(found, NimadError) else make_plan(self.settings, found)
