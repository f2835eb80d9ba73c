"""The manual pages, made from what the program itself says: its commands and their options, and its settings file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import described
from releases import CHECKOUT

#: Words in `code` or **strong**, and links, as docs/OPERATING.md has them.
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


def _paragraphs(text: Sequence[str]) -> str:
    return "\n\n".join(_plain(part) for part in text)


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield f".TP\n{_marked(name)}\n{_marked(text)}"


def _commands() -> Iterator[str]:
    yield from (".SH NAME", "nimad \\- " + _plain("move an AI agent's memory from SQLite into LadybugDB"))
    yield from (".SH SYNOPSIS", ".B nimad", ".I command", ".RI [ option ...]")
    yield from (".SH DESCRIPTION", _paragraphs(described.program()))
    yield _plain("Without options it reads ~/.nima/memory/graph.sqlite, and makes ladybug.lbug beside it,")
    yield _plain("which nima-core opens, with a link graph.ladybug to it.")
    yield ".SH COMMANDS"
    for command in described.commands():
        yield f".SS {_plain(command.usage)}"
        yield _paragraphs(command.text)
        for name, text in command.options:
            yield f".TP\n.B {_plain(name)}\n{_plain(text)}"
    yield from (".SH EXIT STATUS", *_rows(described.exit_codes()))
    yield ".PP\nOf commands that look or go back, the lower ones say what was found:"
    yield from _rows(described.exit_codes_of_commands())
    yield from (".SH FILES", *_rows(described.files()))
    yield ".TP\n.I /etc/nima/nimad.toml\nSettings; see nimad.toml(5)."
    yield from (".SH SEE ALSO", ".BR nimad.toml (5),\n.BR nima\\-migrate.service (8)")


def _settings() -> Iterator[str]:
    yield from (".SH NAME", "nimad.toml \\- settings of nimad")
    yield from (".SH SYNOPSIS", ".I /etc/nima/nimad.toml", ".SH DESCRIPTION")
    for table in described.settings():
        yield f".SH [{table.name}]" if table.name else _paragraphs(table.text)
        for setting, text in table.settings:
            yield f".TP\n.B {_plain(setting)}\n{_paragraphs(text)}"
    yield from (".SH SEE ALSO", ".BR nimad (1),\n.BR nima\\-migrate.service (8)")


def _service() -> Iterator[str]:
    """Its text lies beside this file; the exit statuses are added."""
    yield (CHECKOUT / "packaging/nima-migrate.service.8").read_text(encoding="utf-8").rstrip()
    yield from (".SH EXIT STATUS", *_rows(described.exit_codes()))
    yield from (".SH SEE ALSO", ".BR nimad (1),\n.BR nimad.toml (5),\n.BR journalctl (1)")
