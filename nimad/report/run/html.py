"""HTML that cannot be broken out of: everything that is not built here is escaped."""

import html
import unicodedata

#: Elements that have no end.
_VOID = frozenset({"meta", "br"})


class Html(str):
    """Markup. A plain `str` is text."""

    __slots__ = ()


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element. Attributes: `class_` for `class`, `aria_label` for `aria-label`; those that are None are left out."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Html(f"<{element}{named}>")
    return Html(f"<{element}{named}>{joined(*children)}</{element}>")


def joined(*children: object) -> Html:
    """What stands next to each other; None stands for nothing, a list for its members."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, (list, tuple)):
            parts.append(str(joined(*child)))
        elif child is not None:
            parts.append(escaped(str(child)))
    return Html("".join(parts))


def escaped(text: str) -> str:
    """Text that HTML may hold, and in which no sign turns a line around or is seen by machines alone."""
    return html.escape("".join("�" if unicodedata.category(sign)[0] == "C" else sign for sign in text))
