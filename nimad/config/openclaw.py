"""OpenClaw's settings file: what it says about NIMA's memory, and which lines have to change. It is only read.

A key that OpenClaw does not know stops its gateway, so nothing of ours belongs in there, and what we tell people to
write has the form that OpenClaw 2026.9.6 takes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from nimad.config.json5_document import Document, Keys, dotted, read_document, shown
from nimad.config.toml_file import read_text

_Value = TypeVar("_Value", str, int, bool)

SQLITE, LADYBUG = "sqlite", "ladybugdb"
#: What the plugin knows as a backend; OpenClaw refuses any other word for it.
BACKENDS: Final = (SQLITE, LADYBUG)
PLUGIN: Final = "nima-memory"
_PLUGINS: Final[Keys] = ("plugins",)
_ENTRY: Final[Keys] = (*_PLUGINS, "entries", PLUGIN)
_CONFIG: Final[Keys] = (*_ENTRY, "config")
#: Where the settings of the database stand. OpenClaw 2026.9.6 takes the first place alone: at the second, which the
#: plugin's own guide has, and which releases before took, it says «Unrecognized key» and does not start.
DATABASE: Final[Keys] = (*_CONFIG, "database")
_PLACES: Final[tuple[Keys, ...]] = (DATABASE, (*_ENTRY, "database"))
#: What they are to be once the agent reads SQLite again. The other keys stay.
SQLITE_AGAIN: Final[Mapping[str, str | bool]] = {"backend": SQLITE, "auto_migrate": False}
#: Characters of a value that we repeat in a line to be written.
_LONGEST_LINE: Final = 400
#: Settings of the plugin that its guide has people write where OpenClaw 2026.9.6 refuses them.
_REFUSED: Final = (
    *("database", "identity_name", "skip_subagents", "skip_heartbeats", "content_limits", "free_energy"),
    "noise_filtering",
)


@dataclass(frozen=True)
class Change:
    """Lines of OpenClaw's file to change: below which keys, what to do there, and the lines."""

    place: Keys
    what: str
    lines: tuple[str, ...] = ()

    def text(self, path: Path | str) -> Iterator[str]:
        yield f"In {path}, at {dotted(self.place)}, {self.what}{':' if self.lines else ''}"
        yield from (f"  {line}" for line in self.lines)


@dataclass(frozen=True)
class Obstacle:
    """A reason why OpenClaw does not run the plugin, or does not start, and the change that has it do so."""

    why: str
    change: Change


@dataclass(frozen=True)
class OpenClaw:
    """What OpenClaw's file says about NIMA's memory.

    `obstacles`: why OpenClaw does not run the plugin; `slot`: the plugin that has the memory slot by the file;
    `places`: the keys at which each value was found; `old_place`: whether settings of the database stand where OpenClaw
    2026.9.6 refuses them; `refused`: what to change where they, or others of the plugin's, do.
    """

    path: Path
    backend: str | None = None
    auto_migrate: bool = False
    batch_size: int | None = None
    exists: bool = True
    obstacles: tuple[Obstacle, ...] = ()
    slot: str | None = None
    old_place: bool = field(default=False, compare=False)
    refused: Obstacle | None = field(default=None, compare=False)
    places: Mapping[str, Keys] = field(default_factory=dict, compare=False)

    @property
    def enabled(self) -> bool:
        """Whether OpenClaw runs the plugin, as far as the file tells."""
        return not self.obstacles

    @property
    def asks_for_migration(self) -> bool:
        """Whether the plugin is on, wants LadybugDB, and wants to be migrated by itself."""
        return self.why_not is None

    @property
    def why_not(self) -> str | None:
        """Say in one sentence why no migration is asked for; None when one is."""
        if not self.exists:
            return f"{self.path} does not exist"
        if self.obstacles:
            return self.obstacles[0].why
        if self.backend is None:
            return f'{self._short("backend")} is not set; it must be "{LADYBUG}"'
        if self.backend != LADYBUG:
            return f'{self._short("backend")} is {shown(self.backend)}, not "{LADYBUG}"'
        if not self.auto_migrate:
            return f"{self._short('auto_migrate')} is not true"
        return None

    def origin(self, key: str) -> str:
        """Say at which keys of the file a setting of the database stands, or would stand."""
        return dotted(self.places.get(key, (*DATABASE, key)))

    def _short(self, key: str) -> str:
        return dotted(self.places.get(key, (*DATABASE, key))[len(_ENTRY) :])


def read_openclaw(path: Path) -> OpenClaw:
    """Given OpenClaw's file, return what it asks for; a missing file asks for nothing.

    Raise ConfigurationError, with line and column, when it is malformed or a key that is read has a
    value that cannot be.
    """
    text = read_text(path)
    if text is None:
        return OpenClaw(path, exists=False)
    document = read_document(path, text)
    places: dict[str, Keys] = {}
    backend = _setting(document, "backend", str, places)
    auto_migrate = _setting(document, "auto_migrate", bool, places)
    batch_size = _setting(document, "migration_batch_size", int, places)
    if batch_size is not None and batch_size < 1:
        raise document.error(places["migration_batch_size"], f"must be at least 1, not {batch_size}")
    slot = _slot(document)
    return OpenClaw(
        path,
        backend,
        auto_migrate is True,
        batch_size,
        obstacles=tuple(_obstacles(document, slot)),
        slot=slot,
        old_place=document.find(_PLACES[1]) is not None,
        refused=_refused(document),
        places=places,
    )


def back_to_sqlite(*, old_place: bool) -> Iterator[Change]:
    """The changes that have the agent read SQLite again. `old_place`: the settings stand where the guide has them."""
    if old_place:
        yield Change(_ENTRY, 'remove "database", which OpenClaw 2026.9 refuses there')
    lines = tuple(_line(key, value) for key, value in SQLITE_AGAIN.items())
    yield Change(DATABASE, "change these alone", lines)


def _setting(document: Document, key: str, kind: type[_Value], places: dict[str, Keys]) -> _Value | None:
    """Return a setting of the database from the first place that has it, and note which one that is."""
    for keys in _keys(key):
        value = document.value(keys, kind)
        if value is not None:
            places[key] = keys
            return value
    return None


def _keys(key: str) -> list[Keys]:
    return [(*place, key) for place in _PLACES]


def _slot(document: Document) -> str | None:
    slot = document.find((*_PLUGINS, "slots", "memory"))
    return slot.strip() or None if isinstance(slot, str) else None


def _obstacles(document: Document, slot: str | None) -> Iterator[Obstacle]:
    """Why OpenClaw does not run the plugin, in the order in which it asks itself.

    A slot that the file does not name is no obstacle: releases differ in who has it then.
    """
    enable = ('"enabled": true,',)
    if document.find((*_PLUGINS, "enabled")) is False:
        yield Obstacle("plugins.enabled is false", Change(_PLUGINS, "change this alone", enable))
    if PLUGIN in _names(document, "deny"):
        what = f'remove "{PLUGIN}"'
        yield Obstacle(f'plugins.deny has "{PLUGIN}"', Change((*_PLUGINS, "deny"), what))
    if document.value((*_ENTRY, "enabled"), bool) is False:
        yield Obstacle(f"{dotted(_ENTRY)}.enabled is false", Change(_ENTRY, "change this alone", enable))
    if slot is not None and slot != PLUGIN:
        why = f'plugins.slots.memory is {shown(slot)}, not "{PLUGIN}"'
        yield Obstacle(why, take_slot("change this alone"))
    allowed = _names(document, "allow")
    if slot is None and allowed and PLUGIN not in allowed:  # the plugin in the slot need not be allowed
        what = f'add "{PLUGIN}"'
        yield Obstacle(f'plugins.allow does not have "{PLUGIN}"', Change((*_PLUGINS, "allow"), what))


def take_slot(what: str) -> Change:
    """The change that gives the plugin the memory slot."""
    return Change((*_PLUGINS, "slots"), what, (f'"memory": "{PLUGIN}",',))


def _names(document: Document, key: str) -> list[str]:
    names = document.find((*_PLUGINS, key))
    return [each.strip() for each in names if isinstance(each, str)] if isinstance(names, list) else []


def _refused(document: Document) -> Obstacle | None:
    """What to change where the plugin's own settings stand beside its ``config`` and not in it."""
    entry, config = document.find(_ENTRY), document.find(_CONFIG)
    here = {key: entry[key] for key in _REFUSED if key in entry} if isinstance(entry, dict) else {}
    if not here:
        return None
    there = config if isinstance(config, dict) else {}
    moved = {key: there.get(key, value) for key, value in here.items()}
    if isinstance(here.get("database"), dict) and isinstance(there.get("database"), dict):
        moved["database"] = {**here["database"], **there["database"]}
    names = " and ".join(json.dumps(key) for key in here)
    why = f'{names} in {dotted(_ENTRY)}, beside its "config": OpenClaw 2026.9 refuses the file for that'
    lines = tuple(_line(key, value) for key, value in moved.items() if value is not None)
    if not lines:
        return Obstacle(why, Change(_ENTRY, f"remove {names}"))
    return Obstacle(why, Change(_CONFIG, f"write what follows, and remove {names} from {dotted(_ENTRY)}", lines))


def _line(key: str, value: object) -> str:
    words = json.dumps(value)
    return f"{json.dumps(key)}: {words if len(words) <= _LONGEST_LINE else '… as it stands there'},"
