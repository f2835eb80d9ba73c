"""OpenClaw's own file: whether it asks for a migration. It is only ever read.

A key that OpenClaw does not know stops its gateway, so nothing of ours belongs in there.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from nimad.config.file import position, read_text
from nimad.errors import ConfigurationError

_Value = TypeVar("_Value", str, int, bool)

LADYBUG: Final = "ladybugdb"
_WORDS: Final = {str: "text in quotes", int: "a whole number", bool: "true or false"}
#: Characters of a wrong value that a message repeats.
_LONGEST_SHOWN: Final = 40
_ENTRY: Final = ("plugins", "entries", "nima-memory")
_DATABASE: Final = (*_ENTRY, "database")
_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]:,]|[^\s{}\[\]:,"'/]+""", re.DOTALL
)
_UNEXPECTED: Final = re.compile(r"<string>:(\d+) Unexpected (.+) at column (\d+)", re.DOTALL)


@dataclass(frozen=True)
class OpenClaw:
    """What OpenClaw's file says about NIMA's memory."""

    path: Path
    backend: str | None = None
    auto_migrate: bool = False
    batch_size: int | None = None
    enabled: bool = True
    exists: bool = True

    @property
    def asks_for_migration(self) -> bool:
        """Whether the plugin is on, wants LadybugDB, and wants to be migrated by itself."""
        return self.why_not is None

    @property
    def why_not(self) -> str | None:
        """Say in one sentence why no migration is asked for; None when one is."""
        if not self.exists:
            return f"{self.path} does not exist"
        if not self.enabled:
            return 'plugins.entries["nima-memory"].enabled is false'
        if self.backend is None:
            return f'database.backend is not set; it must be "{LADYBUG}"'
        if self.backend != LADYBUG:
            return f'database.backend is {json.dumps(self.backend)}, not "{LADYBUG}"'
        if not self.auto_migrate:
            return "database.auto_migrate is not true"
        return None


def read_openclaw(path: Path) -> OpenClaw:
    """Given OpenClaw's file, return what it asks for; a missing file asks for nothing.

    Raise ConfigurationError, with line and column, when it is malformed or a key that is read has a
    value that cannot be.
    """
    text = read_text(path)
    if text is None:
        return OpenClaw(path, exists=False)
    document = _Document(path, text, _parse(path, text))
    backend = document.value((*_DATABASE, "backend"), str)
    auto_migrate = document.value((*_DATABASE, "auto_migrate"), bool)
    batch_size = document.value((*_DATABASE, "migration_batch_size"), int)
    enabled = document.value((*_ENTRY, "enabled"), bool)
    if batch_size is not None and batch_size < 1:
        raise document.error((*_DATABASE, "migration_batch_size"), f"must be at least 1, not {batch_size}")
    return OpenClaw(path, backend, auto_migrate is True, batch_size, enabled is not False)


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # Plain JSON, which OpenClaw itself writes, never loads json5: a hundred times slower, and memory.
        return _parse_json5(path, text)
    except RecursionError:
        raise _too_deep(path) from None


def _parse_json5(path: Path, text: str) -> Any:
    import json5

    try:
        return json5.loads(text)
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        message = str(error)
    if parts := _UNEXPECTED.fullmatch(message):
        thing = "end of line" if parts[2] in ('"\n"', '"\r"') else parts[2]
        where, what = f"line {parts[1]}, column {parts[3]}", f"unexpected {thing}"
    else:
        where, what = position(text), " ".join(message.split())
    if not text.strip():
        what = "the file is empty"
    raise ConfigurationError(f"{path}: {where}: {what}; correct it and run again")


def _too_deep(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path}: nested too deeply to be read; correct it and run again")


@dataclass(frozen=True)
class _Document:
    path: Path
    text: str
    content: Any

    def value(self, keys: tuple[str, ...], kind: type[_Value]) -> _Value | None:
        """Return the value at the end of these keys, or None when one of them is missing or null."""
        content = self.content
        for depth, key in enumerate(keys):
            if not isinstance(content, dict):
                raise self.error(keys[:depth], f"must be an object, not {_kind(content)}")
            content = content.get(key)
            if content is None:
                return None
        # Exact, because Python counts true as the number 1.
        if type(content) is not kind:
            raise self.error(keys, f"must be {_WORDS[kind]}, not {_kind(content)}")
        return content

    def error(self, keys: tuple[str, ...], what: str) -> ConfigurationError:
        where = position(self.text[: _offset(self.text, keys)])
        return ConfigurationError(f"{self.path}: {where}: {_dotted(keys)} {what}; correct it and run again")


def _kind(value: object) -> str:
    # What stands in the wrong place may be long, or a secret of another plugin.
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    words = json.dumps(value)
    return words if len(words) <= _LONGEST_SHOWN else "a long text"


def _dotted(keys: tuple[str, ...]) -> str:
    return ".".join(keys).replace(".nima-memory", '["nima-memory"]') or "the file"


def _offset(text: str, keys: tuple[str, ...]) -> int:
    """Find where a key stands in text that is known to parse; parsers keep no positions."""
    found = 0
    inside: list[str] = []
    key = last = ""
    start = 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word.startswith(("//", "/*")):
            continue
        if word in ("{", "["):
            inside.append(key)
            key = ""
        elif word in ("}", "]"):
            key = inside.pop()
        elif word == ":":
            key = last
            if (*inside[1:], key) == keys:
                # The last of several equal keys is the one that counts.
                found = start
        elif word != ",":
            last, start = word.strip("\"'"), token.start()
    return found
