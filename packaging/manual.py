"""The manual pages, made from what the program itself says: its commands and their options, and its settings file."""

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime

import click
from releases import CHECKOUT

sys.path.insert(0, str(CHECKOUT))
from nimad.cli.main import cli  # from this checkout

#: Words in `code` or **strong**, and links, as README.md has them.
_MARKUP = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]+\)")
#: What troff, or one of its macros, would take for something else.
_SIGNS = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def pages(version: str, when: datetime) -> Mapping[str, str]:
    """Each page by its name."""
    return {
        "nimad.1": _head("NIMAD", 1, version, when) + "\n".join(_commands()) + "\n",
        "nimad.toml.5": _head("NIMAD.TOML", 5, version, when) + "\n".join(_settings()) + "\n",
        "nima-migrate.service.8": _head("NIMA-MIGRATE.SERVICE", 8, version, when) + "\n".join(_service()) + "\n",
    }


def _head(name: str, section: int, version: str, when: datetime) -> str:
    return f'.TH {name} {section} "{when:%Y-%m-%d}" "nimad {version}"\n'


def _plain(text: str) -> str:
    """Text in which troff finds nothing of its own."""
    text = "".join(_SIGNS.get(sign, sign) for sign in text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def _marked(text: str) -> str:
    parts, at = [], 0
    for found in _MARKUP.finditer(text):
        parts += [_plain(text[at : found.start()]), f"\\fB{_plain(found[1] or found[2] or found[3])}\\fR"]
        at = found.end()
    return "".join([*parts, _plain(text[at:])])


# The commands


def _commands() -> Iterator[str]:
    yield from (".SH NAME", "nimad \\- " + _plain("move an AI agent's memory from SQLite into LadybugDB"))
    yield from (".SH SYNOPSIS", ".B nimad", ".I command", ".RI [ option ...]")
    yield from (".SH DESCRIPTION", _plain(_help(cli)))
    yield _plain("Without options it reads ~/.nima/memory/graph.sqlite, and makes graph.ladybug beside it.")
    yield ".SH COMMANDS"
    context = click.Context(cli, info_name="nimad")
    for name, command in sorted(cli.commands.items()):
        yield from _command(context, command, name)
    yield from (".SH EXIT STATUS", *_rows(_table("exit code")))
    yield from (".SH FILES", *_rows(_table("file")))
    yield ".TP\n.I /etc/nima/nimad.toml\nSettings; see nimad.toml(5)."
    yield from (".SH SEE ALSO", ".BR nimad.toml (5),\n.BR nima\\-migrate.service (8)")


def _command(above: click.Context, command: click.Command, name: str) -> Iterator[str]:
    if command.hidden:
        return
    context = click.Context(command, info_name=name, parent=above)
    usage = " ".join([*context.command_path.split(), *command.collect_usage_pieces(context)])
    yield f".SS {_plain(usage)}"
    yield _plain(_help(command))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            yield f".TP\n.B {_plain(record[0])}\n{_plain(record[1])}"
    if isinstance(command, click.Group):
        for inner, subcommand in sorted(command.commands.items()):
            yield from _command(context, subcommand, inner)


def _help(command: click.Command) -> str:
    paragraphs = (" ".join(part.split()) for part in (command.help or "").replace("\b", "").split("\n\n"))
    return "\n.PP\n".join(paragraphs).replace("\n.PP\n", "\n\n")


def _table(first: str) -> list[tuple[str, str]]:
    """The rows of the table in README.md whose first heading is this."""
    lines = (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, text = (cell.strip() for cell in line.strip("|").split(" | ", 1))
        rows.append((name, text))
    return rows


def _rows(rows: list[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield f".TP\n{_marked(name)}\n{_marked(text)}"


# The settings


def _settings() -> Iterator[str]:
    """From the file that is installed: comments become text, `#key = value` a heading with the default."""
    lines = (CHECKOUT / "etc/nima/nimad.toml").read_text(encoding="utf-8").splitlines()
    yield from (".SH NAME", "nimad.toml \\- settings of nimad")
    yield from (".SH SYNOPSIS", ".I /etc/nima/nimad.toml", ".SH DESCRIPTION")
    comment: list[str] = []
    for line in lines:
        if table := re.fullmatch(r"\[(\w+)\]", line):
            yield from (_text(comment), f".SH [{table[1]}]")
            comment = []
        elif setting := re.fullmatch(r"#(\w+ = .+)", line):
            yield f".TP\n.B {_plain(setting[1])}\n{_text(comment)}"
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
    yield from (".SH SEE ALSO", ".BR nimad (1),\n.BR nima\\-migrate.service (8)")


def _text(comment: list[str]) -> str:
    return "\n\n".join(_plain(part.strip()) for part in " ".join(line or "\n" for line in comment).split("\n"))


# The service


def _service() -> Iterator[str]:
    """Its text lies beside this file; the exit statuses are added."""
    yield (CHECKOUT / "packaging/nima-migrate.service.8").read_text(encoding="utf-8").rstrip()
    yield from (".SH EXIT STATUS", *_rows(_table("exit code")))
    yield from (".SH SEE ALSO", ".BR nimad (1),\n.BR nimad.toml (5),\n.BR journalctl (1)")
