"""Which side the agent's Python programs use, by NIMA's variables in the environment and in ``.env``.

The plugin of the gateway does not ask them: it uses LadybugDB as soon as there is a file of that name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nimad.config import env_file

_SQLITE, _LADYBUG, _TRUE = "sqlite", "ladybug", "true"
#: The variables, the one that counts most first, with the words that NIMA knows for each.
WORDS: Final[Mapping[str, str]] = {
    "NIMA_DB_BACKEND": f"{_SQLITE} or {_LADYBUG}",
    "NIMA_STORE": f"{_SQLITE} or {_LADYBUG}",
    "NIMA_LADYBUG_ENABLED": f"{_TRUE} or false",
}
NAMES: Final = tuple(WORDS)
#: Characters of a value that is repeated; a longer one may be a secret in the wrong place.
_LONGEST_SHOWN: Final = 40


@dataclass(frozen=True)
class Variable:
    """One of the variables, and where it is set."""

    name: str
    value: str
    origin: str

    def __str__(self) -> str:
        shown = self.value if self.value.isprintable() and len(self.value) <= _LONGEST_SHOWN else "..."
        return f"{self.name}={shown} ({self.origin})"

    @property
    def backend(self) -> str | None:
        """What it says, as NIMA reads it; None where it says nothing."""
        word = self.value.strip().lower()
        if self.name == NAMES[-1]:
            return _LADYBUG if word == _TRUE else None
        return word if word in (_SQLITE, _LADYBUG) else None


@dataclass(frozen=True)
class Backend:
    """The variables that are set, the one that counts most first. `unread`: why the file could not be read."""

    file: Path
    variables: tuple[Variable, ...]
    unread: str = ""

    @property
    def decisive(self) -> Variable | None:
        """The variable that says it; None where the programs go by their default, which is SQLite."""
        return next((each for each in self.variables if each.backend), None)

    @property
    def is_ladybug(self) -> bool:
        return self.decisive is not None and self.decisive.backend == _LADYBUG

    @property
    def unknown(self) -> list[Variable]:
        """Those with a word that NIMA does not know, which it passes over."""
        return [each for each in self.variables if each.backend is None and each.value.strip().lower() != "false"]

    @property
    def overruled(self) -> list[Variable]:
        """Those that say another thing than the one that counts."""
        if self.decisive is None:
            return []
        return [each for each in self.variables if each.backend not in (None, self.decisive.backend)]


def read(env: Mapping[str, str], file: Path) -> Backend:
    """Return what the environment and the file say; of a variable that both set, the environment counts."""
    text, unread = env_file.read(file)
    given = {each.name: each for each in [*_noted(file, text), *_of_environment(env)]}
    return Backend(file, tuple(given[name] for name in NAMES if name in given), unread)


def _of_environment(env: Mapping[str, str]) -> Iterator[Variable]:
    yield from (Variable(name, env[name], "environment") for name in NAMES if env.get(name))


def _noted(file: Path, text: str) -> Iterator[Variable]:
    """Return those that the file sets."""
    for line in env_file.lines(text):
        if line.name in NAMES and line.value:
            yield Variable(line.name, line.value, f"{file} line {line.number}")
