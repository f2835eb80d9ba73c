"""The file ``nimad.toml``: its tables and keys, and the line of an invalid one."""

import difflib
import errno
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from nimad.config.defaults import Given
from nimad.errors import ConfigurationError, NimadError, NotAllowedError
from nimad.host import bounded

DEFAULT_FILE: Final = Path("/etc/nima/nimad.toml")

#: Characters, and dots, of a line: a key of many parts takes memory by the square of them.
_LINE: Final = 8_192
_DOTS: Final = 200
#: Commands that are run when a run has ended, or something was set aside.
HOOKS: Final = ("on_complete", "on_failure", "on_quarantine")
#: table -> key -> (field of ``Settings``, type).
TABLES: Final[dict[str, dict[str, tuple[str, type]]]] = {
    "source": {"path": ("source", str)},
    "target": {"path": ("target", str), "also": ("also", list)},
    "batch": {"size": ("batch_size", int), "max": ("max_batch_size", int), "fixed": ("fixed_batch", bool)},
    "limits": {"memory": ("max_memory", str), "priority": ("priority", str)},
    "engine": {"module": ("engine", str), "python": ("engine_python", str)},
    "reader": {"python": ("reader_python", str)},
    "vector": {"index": ("vector_index", str), "extension": ("vector_extension", str)},
    "verify": {"level": ("verify", str), "max_set_aside": ("max_set_aside", str)},
    "service": {"trigger": ("trigger", str), "after": ("after", str)},
    "metrics": {"file": ("metrics_file", str)},
    "hooks": {name: (name, list) for name in HOOKS},
    "log": {"file": ("log_file", str), "level": ("log_level", str)},
}
_WORDS: Final = {str: "text in quotes", int: "a whole number", bool: "true or false", list: "a list of words in quotes"}


def read(path: Path | None) -> Given:
    """Given a file, or None for the default one, return what it says. Only the default may be missing."""
    place = DEFAULT_FILE if path is None else path
    text = read_text(place)
    if text is not None:
        return _given(place, text)
    if path is None:
        return {}
    raise ConfigurationError(f"{path}: no such file; correct --config or leave it out")


def read_text(path: Path) -> str | None:
    """Return the text of a configuration file, or None when there is none."""
    try:
        return bounded.read(path, bounded.CONFIG_BYTES, links=True).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        if error.errno == errno.EPERM:
            raise NotAllowedError(f"{path}: {error.strerror}; name a file of yours or of root's") from None
        raise NotAllowedError(f"{path}: not allowed to read it; run as its owner or make it readable") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{path}: is a folder, not a file; name the file in it") from None
    except UnicodeDecodeError as error:
        where = position(error.object[: error.start].decode("utf-8", "replace"))
        raise ConfigurationError(f"{path}: {where}: not UTF-8; save it as UTF-8 and run again") from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG):
            raise ConfigurationError(f"{path}: {error.strerror}; name another file") from None
        raise NimadError(f"{path}: {error.strerror}; check the disk and run again") from None


def position(text: str) -> str:
    """Say where a text that was read up to here ends, as editors count."""
    return f"line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"


def _given(path: Path, text: str) -> Given:
    given: Given = {}
    for table, content in _parse(path, text).items():
        line = _line(text, table)
        if table not in TABLES:
            hint = _hint(table, TABLES, "tables") if isinstance(content, dict | list) else _hint_of_key(table)
            kind = f"table [{table}]" if isinstance(content, dict | list) else f"key {table!r}"
            raise ConfigurationError(f"{path}: unknown {kind}, line {line}; {hint}")
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: {table!r}, line {line}, must be a table; write [{table}]")
        for key, value in content.items():
            line = _line(text, table, key)
            name = _field(path, line, table, key, value)
            given[name] = (value, f"{path} line {line}")
    return given


def _parse(path: Path, text: str) -> dict[str, Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > _LINE or line.count(".") > _DOTS:
            raise ConfigurationError(f"{path}: line {number} is longer, or has more dots, than any of its lines needs")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{path}: lists lie in lists too many times; correct it and run again") from None
    except tomllib.TOMLDecodeError as error:
        what = str(error)
        what, _, where = what.removesuffix(")").rpartition(" (at ")
        if not where.startswith("line"):
            where = position(text)
        raise ConfigurationError(f"{path}: {where}: {what}; correct it and run again") from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigurationError(f"{path}: {error}; correct it and run again") from None


def _field(path: Path, line: int, table: str, key: str, value: object) -> str:
    """Return the field that a key sets. Raise ConfigurationError unless key and type are known."""
    known = TABLES[table]
    if key not in known:
        hint = _hint(key, known, "keys")
        raise ConfigurationError(f"{path}: unknown key {key!r} in [{table}], line {line}; {hint}")
    name, kind = known[key]
    # Exact, because Python counts true as the number 1.
    strings = kind is not list or (isinstance(value, list) and all(type(item) is str and item for item in value))
    if type(value) is not kind or value == "" or not strings:
        wanted = f"must be {_WORDS[kind]}, not {value!r}"
        raise ConfigurationError(f"{path}: {key!r} in [{table}], line {line}, {wanted}")
    return name


def _hint_of_key(word: str) -> str:
    """Which key of a table was meant by one that stands in none; it may be named as the option is."""
    known: dict[str, list[str]] = {}
    for table, keys in TABLES.items():
        for key, (field, _) in keys.items():
            for name in {field, f"{table}_{key}", key}:
                known.setdefault(name, []).append(f"{key!r} in [{table}]")
    near = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1)
    return f"did you mean {' or '.join(known[near[0]])}?" if near else _hint(word, TABLES, "tables")


def _hint(word: str, known: Iterable[str], kind: str) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the {kind} are {', '.join(known)}"


def _line(text: str, *names: str) -> int:
    """Find the line of a table, or of a key in it; tomllib keeps no lines.

    A table written on one line, ``batch = {size = 5}``, stands for its keys.
    """
    table = ""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            parts = table = _plain(header[1])
        elif "=" in line:
            parts = f"{table}.{_plain(line.split('=')[0])}".lstrip(".")
        else:
            continue
        for depth in range(len(names)):
            wanted = ".".join(names[: depth + 1])
            if f"{parts}.".startswith(f"{wanted}."):
                found.setdefault(wanted, number)
    return found.get(".".join(names)) or found.get(names[0], 1)


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
