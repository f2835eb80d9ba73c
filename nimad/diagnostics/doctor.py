"""The doctor: whether machine, engines, files and service are fit for a migration. It changes nothing."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nimad.config import Settings
from nimad.config.variables import explained
from nimad.diagnostics.checks import agent, engines, files, hardware, language, units
from nimad.diagnostics.checks.finding import Examined, Finding, Verdict, problem, warning
from nimad.errors import NimadError, StoppedError

_Check = Callable[[Examined], Iterator[Finding]]

#: By the name that a line begins with when the check itself goes wrong, in the order in which they are shown.
CHECKS: Sequence[tuple[str, _Check]] = (
    ("machine", hardware.machine_itself),
    ("page size", hardware.page_size),
    ("memory", hardware.memory),
    ("disk", hardware.disk),
    ("python", engines.python),
    ("engine", engines.own_engine),
    ("storage version", engines.storage),
    ("readers", engines.readers),
    ("language", language.language),
    ("settings", files.settings),
    ("OpenClaw", agent.openclaw),
    ("backend", agent.python_side),
    ("source", files.source),
    ("permissions", files.permissions),
    ("names", files.names),
    ("locks", files.locks),
    ("migration", files.migration),
    ("leftovers", files.left_over),
    ("service", units.units),
)
#: Checks of what need not be settled for anything to be looked at.
_WITHOUT_SETTINGS: Sequence[tuple[str, _Check]] = tuple(
    each for each in CHECKS if each[0] in ("machine", "page size", "python", "service")
)
#: Checks that wait for other processes, which they do side by side.
_AT_ONCE = 4


@dataclass(frozen=True)
class Report:
    """All findings."""

    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.findings), default=Verdict.OK)


def examine(load: Callable[[], Settings]) -> Report:
    """Make every check; `load` gives the settings, or raises what is wrong with them."""
    try:
        examined = Examined(load())
    except NimadError as error:
        nothing: list[Finding] = []
        for name, check in _WITHOUT_SETTINGS:
            nothing += _contained(name, check, None)
        return Report([problem("settings", str(error)), *nothing])
    _ = examined.plan  # once, before the checks that need it: side by side, each would read the memory
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda each: _contained(each[0], each[1], examined), CHECKS)
        return Report([finding for findings in found for finding in findings])


def _contained(name: str, check: _Check, examined: Examined | None) -> list[Finding]:
    """What a check finds, or why it could not: one that fails is a line, and stops no other."""
    try:
        return list(check(examined))  # type: ignore[arg-type]
    except StoppedError:
        return [warning(name, "it takes too long to find out; ask again when the machine has less to do")]
    except NimadError as error:
        return [problem(name, explained(str(error), examined.settings) if examined else str(error))]
    except OSError as error:
        return [warning(name, f"cannot be told: {error.filename or ''} {error.strerror or error}".strip())]
    except subprocess.SubprocessError as error:
        return [warning(name, f"cannot be told: {error}")]
    except Exception as error:  # noqa: BLE001 - a doctor who falls ill over one patient still sees the others
        return [warning(name, f"this check failed, which is a bug of nimad's: {type(error).__name__}: {error}")]
