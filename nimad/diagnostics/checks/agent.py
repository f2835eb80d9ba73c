"""The agent: which side OpenClaw's file and NIMA's variables make it read, and which lines have to change."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nimad.config import OpenClaw, backend, command, defaults, env_file, read_openclaw
from nimad.config.json5_document import shown
from nimad.config.openclaw import BACKENDS, DATABASE, LADYBUG, PLUGIN, Change, take_slot
from nimad.diagnostics.checks.finding import Examined, Finding, ok, warning

_OPENCLAW, _BACKEND = "OpenClaw", "backend"
#: Where OpenClaw has its plugins, beside its file.
_EXTENSIONS: Final = Path("extensions")


def openclaw(examined: Examined) -> Iterator[Finding]:
    """OpenClaw's file: whether it has a form that OpenClaw takes, whether the plugin is on, and what is asked for."""
    path, target = examined.settings.openclaw_file, examined.settings.target
    found = read_openclaw(path)  # raises with line and column
    if not found.exists:
        yield ok(_OPENCLAW, f"{path} is not there; only --auto and the service read it")
        return
    yield from _form(found)
    yield from _plugin(found)
    if not found.enabled:
        return
    if found.backend == LADYBUG and not target.exists():
        what = f'{path} has the agent read LadybugDB (backend "{LADYBUG}"), and there is no {target}'
        yield warning(_OPENCLAW, what, command.migrate(examined.settings))
    else:
        wants = "asks for a migration" if found.asks_for_migration else f"asks for none: {found.why_not}"
        yield ok(_OPENCLAW, f"{path} {wants}")


def _form(found: OpenClaw) -> Iterator[Finding]:
    """What OpenClaw itself refuses: its gateway does not start with such a file."""
    if found.refused:
        what = f"{found.path} has {found.refused.why}, and its gateway does not start"
        yield warning(_OPENCLAW, what, _lines(found.refused.change, found))
    if found.backend not in (None, *BACKENDS):
        what = f"{found.path}: {found.origin('backend')} is {shown(found.backend)}, which {PLUGIN} does not know"
        change = Change(DATABASE, "change this alone", (f'"backend": "{LADYBUG}",',))
        yield warning(_OPENCLAW, f"{what}; it knows {' and '.join(BACKENDS)}", _lines(change, found))


def _plugin(found: OpenClaw) -> Iterator[Finding]:
    """What keeps OpenClaw from running the plugin: then its agent neither stores nor recalls a memory."""
    for obstacle in found.obstacles:
        what = f"{found.path}: {obstacle.why}; {PLUGIN} is disabled"
        yield warning(_OPENCLAW, what, _lines(obstacle.change, found))
    installed = (found.path.parent / _EXTENSIONS / PLUGIN).is_dir()
    if found.slot is None and installed:
        what = "plugins.slots.memory is not set, and OpenClaw 2026.9 gives the slot to memory-core then"
        yield warning(_OPENCLAW, f"{found.path}: {what}; {PLUGIN} is disabled", _lines(take_slot("write"), found))


def _lines(change: Change, found: OpenClaw) -> str:
    return "\n".join(change.text(found.path))


def python_side(examined: Examined) -> Iterator[Finding]:
    """NIMA's variables for the agent's Python programs, of the environment and the owner's `.env`: what they mean."""
    mine = examined.settings
    home = defaults.home_of(os.environ)
    found = backend.read(os.environ, defaults.data_home(os.environ, home)[0] / env_file.NAME)
    if found.unread:
        yield warning(_BACKEND, found.unread)
    for variable in found.unknown:
        yield warning(_BACKEND, f"{variable} is passed over: {variable.name} is to be {backend.WORDS[variable.name]}")
    uses = f"the agent's Python programs use {'LadybugDB' if found.is_ladybug else 'SQLite'}"
    if found.decisive is None:
        yield ok(_BACKEND, f"{backend.NAMES[0]} is not set, here or in {found.file}: {uses}")
    elif found.is_ladybug and not mine.target.exists():
        yield warning(_BACKEND, f"{found.decisive}: {uses}, and there is no {mine.target}", command.migrate(mine))
    else:
        yield ok(_BACKEND, f"{found.decisive}: {uses}")
    for variable in found.overruled:
        yield ok(_BACKEND, f"{variable} is overruled by {found.decisive}")
