"""A JSON5 document: values by their keys, and the line and column of an invalid one."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from nimad.config.toml_file import position
from nimad.errors import ConfigurationError

_Value = TypeVar("_Value", str, int, bool)

_WORDS: Final = {str: "text in quotes", int: "a whole number", bool: "true or false"}
#: Characters of a wrong value that a message repeats.
_LONGEST_SHOWN: Final = 40
_TOKEN: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}\[\]:,]|[^\s{}\[\]:,"'/]+""", re.DOTALL
)
_STRING: Final = r'("(?:\\.|[^"\\])*(?:"|\Z))'
_COMMENT: Final = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_LAST_COMMA: Final = re.compile(rf"{_STRING}|,(\s*[}}\]])", re.DOTALL)
#: Characters of a text that is read by json5.
_LARGEST_JSON5: Final = 32_768
_UNEXPECTED: Final = re.compile(r"<string>:(\d+) Unexpected (.+) at column (\d+)", re.DOTALL)

#: A key and the keys above it.
Keys = tuple[str, ...]


def read_document(path: Path, text: str) -> "Document":
    """Return a file's text as a document. Raise ConfigurationError, with line and column, when it is malformed."""
    return Document(path, text, _parse(path, text))


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    except RecursionError:
        raise _too_deep(path) from None
    try:
        return json.loads(_without_comments(text))
    except (ValueError, RecursionError):
        # json5 is a thousand times slower: seconds for a page.
        if len(text) > _LARGEST_JSON5:
            raise ConfigurationError(
                f"{path}: not JSON with comments, and too long to be read as JSON5; write names and texts in double "
                "quotes"
            ) from None
        return _parse_json5(path, text)


def _without_comments(text: str) -> str:
    """The same without comments and commas before a closing bracket, each line as long as before."""
    blank = _COMMENT.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text)
    return _LAST_COMMA.sub(lambda found: found[1] or f" {found[2]}", blank)


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
class Document:
    """What a file says, with its text, in which the place of a wrong value is looked for."""

    path: Path
    text: str
    content: Any

    def value(self, keys: Keys, kind: type[_Value]) -> _Value | None:
        """Return the value at the end of these keys, or None when one of them is missing or null.

        Raise ConfigurationError when it is of another kind, or one of the keys above it is no object.
        """
        content = self.content
        for depth, key in enumerate(keys):
            if not isinstance(content, dict):
                raise self.error(keys[:depth], f"must be an object, not {shown(content)}")
            content = content.get(key)
            if content is None:
                return None
        # Exact, because Python counts true as the number 1.
        if type(content) is not kind:
            raise self.error(keys, f"must be {_WORDS[kind]}, not {shown(content)}")
        return content

    def find(self, keys: Keys) -> object:
        """Return whatever stands at the end of these keys, or None: for keys of which another program is the judge."""
        content = self.content
        for key in keys:
            content = content.get(key) if isinstance(content, dict) else None
        return content

    def error(self, keys: Keys, what: str) -> ConfigurationError:
        where = position(self.text[: _offset(self.text, keys)])
        return ConfigurationError(f"{self.path}: {where}: {dotted(keys)} {what}; correct it and run again")


def shown(value: object) -> str:
    """Return a value as a message repeats it."""
    # What stands in the wrong place may be long, or a secret of another plugin.
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    words = json.dumps(value)
    return words if len(words) <= _LONGEST_SHOWN else "a long text"


def dotted(keys: Keys) -> str:
    """Return keys as one writes them: ``plugins.entries["nima-memory"].enabled``."""
    words = (f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]" for key in keys)
    return "".join(words).removeprefix(".") or "the file"


def _offset(text: str, keys: Keys) -> int:
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
