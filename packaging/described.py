"""What the program says of itself, for the manual pages and the reference: commands, settings, exit codes, events."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
from releases import CHECKOUT

sys.path.insert(0, str(CHECKOUT))
import nimad  # from this checkout
from nimad.cli.main import cli
from nimad.config.toml_file import TABLES
from nimad.errors import MEANINGS
from nimad.events.run import Event

_SETTINGS = CHECKOUT / "etc/nima/nimad.toml"
#: How the help of a command begins to tell of its exit codes.
_CODES = "Exit code "


@dataclass(frozen=True)
class Command:
    """A command and its options, each as it is typed and what it means; `text` has one string for a paragraph."""

    usage: str
    text: Sequence[str]
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table of the settings file, each setting as `key = default`. One without a name is the file's own text."""

    name: str
    text: Sequence[str]
    settings: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Happening:
    """A kind of event, and what it carries by name and type."""

    name: str
    text: Sequence[str]
    fields: Sequence[tuple[str, str]]


# Commands


def program() -> Sequence[str]:
    """What the program is for."""
    return _paragraphs(cli.help or "")


def commands() -> Iterator[Command]:
    """Every command that is shown, and those below it, by name."""
    context = click.Context(cli, info_name="nimad")
    for name, command in inside(cli, context):
        yield from _command(context, command, name)


def inside(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group by name, those too that it makes only when it is asked for them."""
    for name in sorted(group.list_commands(context)):
        if command := group.get_command(context, name):
            yield name, command


def _command(above: click.Context, command: click.Command, name: str) -> Iterator[Command]:
    if command.hidden:
        return
    context = click.Context(command, info_name=name, parent=above)
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield Command(
        " ".join([*context.command_path.split(), *command.collect_usage_pieces(context)]),
        _paragraphs(command.help or ""),
        [record for record in records if record is not None and record[1] and "--help" not in record[0]],
    )
    if isinstance(command, click.Group):
        for inner, subcommand in inside(command, context):
            yield from _command(context, subcommand, inner)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text).replace("\b", "").split("\n\n")]


# Settings


def settings() -> list[Table]:
    """From the file that is installed: comments become text, `#key = value` a setting with its default."""
    tables: list[Table] = [Table("", (), ())]
    found: list[tuple[str, Sequence[str]]] = []
    comment: list[str] = []
    for line in _SETTINGS.read_text(encoding="utf-8").splitlines():
        if table := re.fullmatch(r"\[(\w+)\]", line):
            found = []
            if len(tables) == 1:
                tables = [Table("", _joined(comment), ())]
            tables.append(Table(table[1], (), found))
            comment = []
        elif setting := re.fullmatch(r"#(\w+ = .+)", line):
            found.append((setting[1], _joined(comment)))
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
    return tables


def option_of(table: str, key: str) -> str:
    """The option that says the same as a setting; empty where no command has one."""
    field = TABLES[table][key][0]
    options = [
        parameter for command in _all(cli) for parameter in command.params if isinstance(parameter, click.Option)
    ]
    return next((option.opts[0] for option in options if option.name == field), "")


def _all(group: click.Group) -> Iterator[click.Command]:
    for _, command in inside(group, click.Context(group)):
        yield command
        if isinstance(command, click.Group):
            yield from _all(command)


def _joined(comment: Sequence[str]) -> list[str]:
    return [part.strip() for part in " ".join(line or "\n" for line in comment).split("\n")]


# Exit codes


def exit_codes() -> list[tuple[str, str]]:
    return [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]


def exit_codes_of_commands() -> list[tuple[str, str]]:
    """Commands whose codes have a meaning of their own, and what their helps say of it."""
    names = ((" ".join(command.usage.split()[:2]), " ".join(command.text)) for command in commands())
    return [(name, text.partition(_CODES)[2]) for name, text in names if _CODES in text]


# Files


def files() -> list[tuple[str, str]]:
    """What lies beside a target, from the table in docs/OPERATING.md."""
    lines = (CHECKOUT / "docs/OPERATING.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| file |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, text = (cell.strip() for cell in line.strip("|").split(" | ", 1))
        rows.append((name, text))
    return rows


# Events


def events() -> list[Happening]:
    """Every kind of event there is, wherever in the package it is defined, by name."""
    for module in pkgutil.walk_packages(nimad.__path__, "nimad."):
        if module.name.endswith("events"):
            importlib.import_module(module.name)
    return [_happening(kind) for kind in sorted(_kinds(Event), key=lambda kind: kind.__name__)]


def _kinds(kind: type[Event]) -> Iterator[type[Event]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("nimad."):
            yield each
            yield from _kinds(each)


def _happening(kind: type[Event]) -> Happening:
    fields = [(each.name, _type(each.type)) for each in dataclasses.fields(kind)]
    return Happening(kind.__name__, _paragraphs(kind.__doc__ or ""), fields)


def _type(kind: object) -> str:
    """A type's name, without the modules that its parts come from."""
    name = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name)
