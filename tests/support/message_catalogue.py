"""The messages that a user can meet, as the code has them, and the tests that provoke each: both read, not run."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from releases import CHECKOUT

import nimad.errors

#: A placeholder in a message whose words are put in when it is said.
HOLE = "\0"
#: Errors of rooms of their own, besides those of nimad/errors.py.
_MORE = {"LeftAloneError", "NotInstalledError"}
_KINDS = _MORE | {
    name
    for name, kind in vars(nimad.errors).items()
    if isinstance(kind, type) and issubclass(kind, nimad.errors.NimadError)
}
#: Levels of a log line that means something to somebody who looks for trouble.
_LEVELS = {"WARN", "ERROR"}
#: Letters that a fragment of a message has to have, for its being asserted to mean that message.
LEAST_ASSERTED = 11


@dataclass(frozen=True)
class Message:
    """One message: where it is made, and its text with holes."""

    file: str
    line: int
    text: str

    @property
    def words(self) -> str:
        """The text without its holes, and without brackets around one."""
        return " ".join(self.text.replace(f"({HOLE})", " ").replace(HOLE, " ").split())

    @property
    def says_something(self) -> bool:
        """Whether it has words of its own, and not just holes."""
        return re.search(r"[A-Za-z]{3}", self.words) is not None

    def fits(self, heading: str) -> bool:
        """Whether this is what a heading of the documentation means, with other words in its holes."""
        pattern = ".*".join(re.escape(part) for part in self.text.split(HOLE))
        return re.fullmatch(pattern, heading, re.DOTALL) is not None


@cache
def messages() -> tuple[Message, ...]:
    """Every message of an error, and every warning of the log, that the code of the program spells out."""
    files = [*(CHECKOUT / "nimad").rglob("*.py"), *(CHECKOUT / "compat").glob("*.py")]
    own = [file for file in sorted(files) if not file.is_relative_to(CHECKOUT / "nimad/compat")]
    return tuple(message for file in own for message in _of(file) if message.says_something)


def _of(file: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        text = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _KINDS and node.args:
            text = _text(node.args[0])
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            level, words = node.value.elts
            text = _text(words) if isinstance(level, ast.Attribute) and level.attr in _LEVELS else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":  # compat/
            level, words = node.args
            text = _text(words) if isinstance(level, ast.Constant) and level.value in _LEVELS else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "refuse":
            what = _text(node.args[1])  # of a setting, whose name comes before it
            text = None if what is None else f"{HOLE} {what}"
        if text is not None and isinstance(node, ast.expr):
            yield Message(str(file.relative_to(CHECKOUT)), node.lineno, text)


def _text(node: ast.expr) -> str | None:
    """A string with holes where values go in; None for what is put together elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
        return re.sub(f"{HOLE}+", HOLE, "".join(parts))
    return None


# Tests


@cache
def asserted(test: str) -> tuple[str, ...]:
    """Every text in a test, named `tests/file.py::name`, and in whatever of its file it calls or names."""
    file, _, name = test.partition("::")
    found = _definitions(file)
    if name not in found:
        raise AssertionError(f"there is no test {test}")
    seen, waiting = {name}, [name]
    texts: list[str] = []
    while waiting:
        for node in ast.walk(found[waiting.pop()]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            if isinstance(node, ast.Name | ast.arg):
                word = node.id if isinstance(node, ast.Name) else node.arg
                if word in found and word not in seen:
                    seen.add(word)
                    waiting.append(word)
    return tuple(texts)


@cache
def _definitions(file: str) -> Mapping[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse((CHECKOUT / file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id: statement for target in targets if isinstance(target, ast.Name)}
    return found


def asserts(test: str, heading: str) -> bool:
    """Whether a test looks for words of a message: some of its texts, or of its patterns' parts, are in there."""
    return any(part in heading or heading in part for text in asserted(test) for part in _parts(text))


def _parts(text: str) -> Iterator[str]:
    for part in re.split(r"(?<!\\)(?:\.[*+]|[()^$|\n])", text):
        plain = re.sub(r"\\(.)", r"\1", part).strip()
        if len(plain) >= LEAST_ASSERTED:
            yield plain
