"""The settings of one run, validated, each with its origin."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NoReturn

from nimad.config import defaults, target_names
from nimad.config.openclaw import OpenClaw
from nimad.config.target_names import Surroundings, TargetNames
from nimad.config.toml_file import HOOKS
from nimad.errors import ConfigurationError, UsageError
from nimad.printable import is_one_line, is_utf_8

#: Nodes in a run's first batch, as the guide promises.
DEFAULT_BATCH_SIZE: Final = 500
#: More than any memory has, and small enough for SQLite's integers when edges are taken 16 times as many.
MAX_BATCH_SIZE: Final = 1_000_000_000
#: Bytes below which not even an empty target can be made.
LEAST_MEMORY: Final = 64 * 2**20
#: Of the memories, the most that may be set aside whole; with more of them nothing is published.
DEFAULT_MAX_SET_ASIDE: Final = "50%"
#: A number, or a percentage.
_NUMBER_OR_SHARE: Final = r"(\d{1,18})|(\d{1,3}(?:\.\d+)?) ?%"
#: A size: bytes, or a multiple of 1,024 to a power, as systemd writes them.
_SIZE: Final = r"(\d+(?:\.\d+)?)([KMGT]?)(?:I?B)?"
_UNITS: Final = ("", "K", "M", "G", "T")
#: The engine is chosen by what the readers open; the vector index is made where that is possible.
AUTO: Final = "auto"
ENGINES: Final = (AUTO, "ladybug", "real_ladybug")
VECTOR_INDEXES: Final = (AUTO, "off")
#: When the service migrates: as soon as it is started, or once OpenClaw's file asks for it.
TRIGGERS: Final = ("start", "openclaw")
#: What it does afterwards: brings what reaches SQLite later, or ends.
AFTERS: Final = ("follow", "exit")
#: What node_exporter's textfile collector reads.
METRICS_SUFFIX: Final = ".prom"
#: How workers stand against other programs.
PRIORITIES: Final = ("normal", "low")
#: In place of a reader's interpreter: nobody's is to be asked.
NO_READER: Final = Path("none")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARN", "ERROR")

_WORDS: Final = {
    "engine": ENGINES,
    "vector_index": VECTOR_INDEXES,
    "priority": PRIORITIES,
    "trigger": TRIGGERS,
    "after": AFTERS,
}

# Told apart by identity: a user may type any path, this one too.
_DERIVED: Final = Path("beside the source")


class Verify(StrEnum):
    """How closely the target is compared with the source before it is published."""

    FULL = "full"
    COUNTS = "counts"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is asked to do. ``Settings(source=Path(...))`` is enough; the rest has defaults.

    Parameters
    ----------
    source : the SQLite file.
    target : the LadybugDB file, by its real name; ``ladybug.lbug`` or ``graph.ladybug`` beside the source unless named.
    log_file : ``migration.log`` beside the source unless named.
    batch_size : nodes in the first batch.
    max_batch_size : nodes that a batch may grow to; None leaves it to the plan.
    fixed_batch : keep every batch at ``batch_size``.
    retry : try what is in quarantine again; for a finished target, as with ``replace``.
    max_set_aside : how many memories may be set aside whole, as ``"20"`` or ``"50%"``; past it nothing is published.
    max_memory : bytes that supervisor and worker may take, or such a number as ``"512M"``; None measures what is free.
    force : begin although the memory there is does not suffice for any plan.
    engine : the import name of the engine that writes, or ``"auto"``: the newest one that every reader can open.
    engine_python : an interpreter whose engine writes; None for ours, or a reader's where ours is too new for it.
    reader_python : the interpreter of the agent; None looks for it, ``"none"`` does not.
    also : further names of the target in its folder, made as symbolic links; None keeps those that it has. The second
        name of the two usual ones is made in any case.
    vector_index : ``"auto"`` makes the index ``embedding_idx`` where the extension for it is at hand, ``"off"`` never.
    vector_extension : that extension's file, where it is not installed as the engine would install it.
    priority : ``"low"`` lets workers have what other programs leave of processor and disk.
    trigger : when the service migrates, of ``TRIGGERS``; ``after`` : what it does then, of ``AFTERS``.
    metrics_file : where figures are written for node_exporter's textfile collector; None for nowhere.
    on_complete, on_failure, on_quarantine : commands, as lists of words, run then; see ``supervisor/hooks.py``.
    start_offset : accepted as the guide has it; a run goes on from what the target is counted to hold.
    origins : field -> where its value comes from; complete when made by ``load``.
    notes : what is to be said of where the values come from.
    openclaw : what OpenClaw's file says, when ``auto`` had it read.
    config_file : the settings file that was named, for the commands that are told to be typed next.
    names : the target and its second name, as ``load`` found them; made from ``target`` otherwise.

    Raises
    ------
    UsageError, or ConfigurationError when the value that cannot be comes from a file.

    """

    source: Path
    target: Path = _DERIVED
    log_file: Path = _DERIVED
    batch_size: int = DEFAULT_BATCH_SIZE
    max_batch_size: int | None = None
    fixed_batch: bool = False
    start_offset: int = 0
    dry_run: bool = False
    auto: bool = False
    replace: bool = False
    restart: bool = False
    nodes_only: bool = False
    verify: Verify = Verify.FULL
    strict: bool = False
    retry: bool = False
    max_set_aside: int | str = DEFAULT_MAX_SET_ASIDE
    max_memory: int | str | None = None
    force: bool = False
    engine: str = AUTO
    engine_python: Path | None = None
    reader_python: Path | None = None
    also: tuple[str, ...] | None = None
    vector_index: str = AUTO
    vector_extension: Path | None = None
    priority: str = "normal"
    trigger: str = "start"
    after: str = "follow"
    metrics_file: Path | None = None
    on_complete: tuple[str, ...] | None = None
    on_failure: tuple[str, ...] | None = None
    on_quarantine: tuple[str, ...] | None = None
    log_level: str = "INFO"
    openclaw_file: Path = defaults.OPENCLAW_FILE
    openclaw: OpenClaw | None = None
    config_file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    names: TargetNames | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self._settle_paths()
        self._settle_words()
        self._check_numbers()
        self._check_paths()

    def origin(self, name: str) -> str:
        """Say where the value of a field comes from."""
        return self.origins.get(name, defaults.DEFAULT)

    def _settle_paths(self) -> None:
        source = defaults.expand(self.source)
        names = self.names
        if names is None or self.target != names.file:  # settled ones stay, whatever comes to the folder meanwhile
            asked = None if self.target is _DERIVED else defaults.expand(self.target)
            names = target_names.choose_names(source, asked, Surroundings(_own_home()))
        log_file = source.with_name(defaults.LOG_NAME) if self.log_file is _DERIVED else self.log_file
        self._set("source", source)
        self._set("target", names.file)
        self._set("names", names)
        self._set("log_file", defaults.expand(log_file))
        self._set("openclaw_file", defaults.expand(self.openclaw_file))
        for name in ("engine_python", "reader_python", "vector_extension", "metrics_file"):
            if (path := getattr(self, name)) is not None:
                self._set(name, NO_READER if str(path) == str(NO_READER) else defaults.expand(Path(path)))

    def _settle_words(self) -> None:
        try:
            self._set("verify", Verify(self.verify))
        except ValueError:
            self.refuse("verify", f"must be one of {', '.join(Verify)}, not {self.verify!r}")
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                self.refuse(name, f"must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("also", *HOOKS):
            self._set(name, None if getattr(self, name) is None else tuple(getattr(self, name)))
        self._set("log_level", self.log_level.upper())
        if self.log_level not in LOG_LEVELS:
            self.refuse("log_level", f"must be one of {', '.join(LOG_LEVELS)}, not {self.log_level!r}")

    @property
    def link(self) -> Path | None:
        """The second name of the target, which is to be a link to it; None where it has one name."""
        return self.names.link if self.names else None

    @property
    def replaces(self) -> bool:
        """Whether a target that is there is kept as a backup while a new one takes its place."""
        return self.replace or self.retry

    @property
    def no_reader(self) -> bool:
        """Whether nobody is to be asked which files the agent can open."""
        return self.reader_python == NO_READER

    def allows_aside(self, rows: int, of: int) -> bool:
        """Whether so many memories may be set aside whole, by `max_set_aside`."""
        number, share = _number_or_share(self.max_set_aside)
        return rows <= int(number) if number else rows * 100 <= float(share) * of

    @property
    def memory_limit(self) -> int | None:
        """`max_memory` in bytes."""
        if self.max_memory is None or isinstance(self.max_memory, int):
            return self.max_memory
        number, unit = re.fullmatch(_SIZE, self.max_memory.strip().upper()).groups()  # type: ignore[union-attr]
        return int(float(number) * 1024 ** _UNITS.index(unit))

    def _set(self, name: str, value: object) -> None:
        # The one way to complete a frozen dataclass while it is being made.
        object.__setattr__(self, name, value)

    def _check_numbers(self) -> None:
        if self.batch_size < 1:
            what = f"must be at least 1, not {self.batch_size}; the default is {DEFAULT_BATCH_SIZE}"
            self.refuse("batch_size", what)
        if self.batch_size > MAX_BATCH_SIZE:
            self.refuse("batch_size", f"must be at most {MAX_BATCH_SIZE}, not {self.batch_size}")
        if self.start_offset < 0:
            self.refuse("start_offset", f"must be at least 0, not {self.start_offset}; the default is 0")
        number, share = _number_or_share(self.max_set_aside)
        if not number and (not share or float(share) > 100):  # noqa: PLR2004 - per cent
            what = f"must be a number of memories, or a share of them up to 100%, not {self.max_set_aside!r}"
            self.refuse("max_set_aside", what)
        if isinstance(self.max_memory, str) and not re.fullmatch(_SIZE, self.max_memory.strip().upper()):
            self.refuse("max_memory", f"must be a size such as 512M or 2G, not {self.max_memory!r}")
        if self.memory_limit is not None and self.memory_limit < LEAST_MEMORY:
            self.refuse("max_memory", f"must be at least {LEAST_MEMORY // 2**20}M, not {self.max_memory}")
        if self.max_batch_size is None:
            return
        if self.fixed_batch and self.max_batch_size != self.batch_size:
            what = (
                f"keeps every batch at {self.batch_size} nodes, but the max batch size is "
                f"{self.max_batch_size}{self._from('max_batch_size')}; leave one of the two out"
            )
            self.refuse("fixed_batch", what, against="max_batch_size")
        if self.max_batch_size < self.batch_size:
            what = (
                f"is {self.batch_size}{self._from('batch_size')}, above the max batch size of "
                f"{self.max_batch_size}{self._from('max_batch_size')}; lower the one or raise the other"
            )
            self.refuse("batch_size", what, against="max_batch_size")

    def _check_paths(self) -> None:
        files = ("source", "target", "log_file", "metrics_file")
        for name in (*files, "openclaw_file", "engine_python", "reader_python", "vector_extension"):
            text = str(getattr(self, name) or "")
            if not is_utf_8(text):
                self.refuse(name, f"{text} is not UTF-8, so the engine cannot open it; rename it")
            if not _is_read_as_utf8(text):  # the command itself begins again in UTF-8 mode
                read = sys.getfilesystemencoding()
                self.refuse(name, f"{text} is {read} to Python and UTF-8 to the engine; start Python with -X utf8")
            if not is_one_line(text):
                self.refuse(name, f"{text!r} has control characters; rename it")
        for each in self.also or ():
            if not is_plain_name(each):
                self.refuse("also", f"must be names in the target's folder without any '/', not {each!r}")
            taken_names = (self.source.name, self.target.name, self.log_file.name)
            if self.link is not None and each == self.target.name == target_names.AGENT_NAME:
                continue  # as files of settings say it that were written when this was a further name
            beside = [f"{path.name}." for path in (self.target, self.link) if path is not None]
            if each in taken_names or each.startswith((*beside, f"{self.source.name}-")):
                self.refuse("also", f"{each!r} is the name of the source, the target, the log or a file beside it")
        for name in HOOKS:
            words = getattr(self, name)
            if words and (not words[0] or any("\0" in word for word in words)):
                self.refuse(name, f"must begin with the name of a program, not {words[0]!r}")
        if self.metrics_file is not None and self.metrics_file.suffix != METRICS_SUFFIX:
            what = f"must end in {METRICS_SUFFIX!r}, all that node_exporter reads; not {self.metrics_file}"
            self.refuse("metrics_file", what)
        taken = {os.path.realpath(self.source): "source"}
        for name in ("target", "log_file"):
            path: Path = getattr(self, name)
            other = taken.setdefault(os.path.realpath(path), name)
            if other != name:
                self.refuse(name, f"is the same file as the {other}, {path}; name another file")

    def _from(self, name: str) -> str:
        return f" ({self.origins[name]})" if name in self.origins else ""

    def refuse(self, name: str, what: str, *, against: str | None = None) -> NoReturn:
        """Raise the error of the layer that holds the value, or one of two values that disagree.

        Of two, a file is to be corrected only when neither was typed: what was typed is changed at once.
        """
        origins = [self.origin(each) for each in (name, against) if each]
        files = [origin for origin in origins if _is_file(origin)]
        if files and defaults.COMMAND_LINE not in origins:
            raise ConfigurationError(f"{files[0]}: {name.replace('_', ' ')} {what}")
        if origins[0].startswith(defaults.ENVIRONMENT):
            raise UsageError(f"{origins[0].removeprefix(defaults.ENVIRONMENT)} {what}")
        raise UsageError(f"--{name.replace('_', '-')} {what}")


def _number_or_share(text: int | str) -> tuple[str, str]:
    """What `max_set_aside` says, one of the two; neither where it cannot be."""
    found = re.fullmatch(_NUMBER_OR_SHARE, str(text).strip())
    return (found[1] or "", found[2] or "") if found else ("", "")


def is_plain_name(name: object) -> bool:
    """Whether this names a file in a folder, and nothing outside of it."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "/" not in name
        and is_one_line(name)
        and is_utf_8(name)
    )


def _is_read_as_utf8(path: str) -> bool:
    """Whether this process names the same file by it as SQLite and the engine do."""
    try:
        return os.fsencode(path) == path.encode()
    except UnicodeEncodeError:
        return False


def _is_file(origin: str) -> bool:
    said_elsewhere = {defaults.DEFAULT, defaults.COMMAND_LINE, defaults.BESIDE_SOURCE}
    return origin not in said_elsewhere and not origin.startswith((defaults.ENVIRONMENT, target_names.CHOSEN))


def _own_home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None
