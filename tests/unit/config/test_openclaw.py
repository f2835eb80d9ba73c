"""OpenClaw's file: we read what OpenClaw takes and tell what it refuses, and what we tell people to write it accepts.

The files `tests/golden/openclaw-NAME.txt` hold what `openclaw config validate` of OpenClaw 2026.9.6 (npm `openclaw`, on
Node 24.21.0) said of each form, with a plugin `nima-memory` of kind `memory` installed. Where `openclaw` is on the
PATH, or the variable NIMAD_OPENCLAW names it, the real one is asked again; with NIMAD_UPDATE_GOLDEN=1 the files are
renewed.
"""

import json
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json5
import pytest
from releases import CHECKOUT
from support.commands import GOLDEN

from nimad.config import Settings, read_openclaw
from nimad.diagnostics.checks import agent
from nimad.diagnostics.checks.finding import Examined, Finding, Verdict
from nimad.report.messages import rollback_messages
from nimad.rollback.rollback import Rollback

UPDATE = os.environ.get("NIMAD_UPDATE_GOLDEN") == "1"
ASKING = '{"database": {"backend": "ladybugdb", "auto_migrate": true}}'
MINE = '"slots": {"memory": "nima-memory"}'


def plugins(*words: str, entry: str) -> str:
    keys = ", ".join([*words, f'"entries": {{"nima-memory": {{{entry}}}}}'])
    return f'{{"plugins": {{{keys}}}}}\n'


#: Forms that people's files have.
FORMS = {
    "config": plugins(MINE, entry=f'"enabled": true, "config": {ASKING}'),
    "old-place": plugins(entry=ASKING[1:-1]),
    "old-place-and-slot": plugins(MINE, entry=f'"identity_name": "lilu", {ASKING[1:-1]}'),
    "both-places": plugins(MINE, entry=f'"database": {{"backend": "sqlite"}}, "config": {ASKING}'),
    "slot-not-set": plugins(entry=f'"config": {ASKING}'),
    "slot-of-another": plugins('"slots": {"memory": "memory-core"}', entry=f'"enabled": true, "config": {ASKING}'),
    "slot-none": plugins('"slots": {"memory": "none"}', entry=f'"config": {ASKING}'),
    "not-enabled": plugins(MINE, entry=f'"enabled": false, "config": {ASKING}'),
    "no-plugins": plugins('"enabled": false', MINE, entry=f'"config": {ASKING}'),
    "denied": plugins('"deny": ["nima-memory"]', MINE, entry=f'"config": {ASKING}'),
    "not-allowed": plugins('"allow": ["telegram"]', entry=f'"config": {ASKING}'),
    "allowed-by-its-slot": plugins('"allow": ["telegram"]', MINE, entry=f'"config": {ASKING}'),
    "unknown-backend": plugins(MINE, entry='"config": {"database": {"backend": "ladybug"}}'),
    "comments": f"// OpenClaw\n{{plugins: {{\n  {MINE}, entries: {{'nima-memory': {{config: {ASKING},}},}},\n}}}}\n",
}
#: What the plugin's manifest says of its settings.
MANIFEST = {
    "id": "nima-memory",
    "name": "nima-memory",
    "version": "2.0.3",
    "kind": "memory",
    "configSchema": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "identity_name": {"type": "string"},
            "database": {
                "type": "object",
                "properties": {
                    "backend": {"type": "string", "enum": ["sqlite", "ladybugdb"]},
                    "auto_migrate": {"type": "boolean"},
                    "migration_batch_size": {"type": "number"},
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Said:
    """What OpenClaw said of a file."""

    document: str
    answer: str

    @property
    def accepted(self) -> bool:
        return self.answer.endswith("[exit 0]\n")

    @property
    def disabled(self) -> bool:
        return "plugin disabled" in self.answer

    @property
    def fine(self) -> bool:
        return self.accepted and "warning" not in self.answer


def golden(name: str) -> Said:
    text = (GOLDEN / f"openclaw-{name}.txt").read_text(encoding="utf-8")
    parts = re.fullmatch(r"\$ cat openclaw\.json\n(.*)\$ openclaw config validate\n(.*)", text, re.DOTALL)
    assert parts is not None
    return Said(parts[1], parts[2])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with OpenClaw's plugin for NIMA's memory, of which the code does nothing."""
    plugin = tmp_path / ".openclaw/extensions/nima-memory"
    plugin.mkdir(parents=True)
    (plugin / "openclaw.plugin.json").write_text(json.dumps(MANIFEST))
    package = {"name": "nima-memory", "version": "2.0.3", "type": "module", "main": "index.js"}
    (plugin / "package.json").write_text(json.dumps({**package, "openclaw": {"extensions": ["./index.js"]}}))
    (plugin / "index.js").write_text("export default function () {}\n")
    return tmp_path


def written(home: Path, text: str) -> Path:
    path = home / ".openclaw/openclaw.json"
    path.write_text(text)
    return path


def findings(home: Path) -> list[Finding]:
    settings = Settings(source=home / "graph.sqlite", openclaw_file=home / ".openclaw/openclaw.json")
    settings.target.touch()
    return list(agent.openclaw(Examined(settings)))


def warnings(home: Path) -> list[Finding]:
    return [each for each in findings(home) if each.verdict is not Verdict.OK]


# What we print, as a file


def applied(document: dict[str, Any], text: str) -> dict[str, Any]:
    """A file's content once somebody has done what we say: `In FILE, at KEYS, …` with the lines below it."""
    document, lines = json.loads(json.dumps(document)), text.splitlines()
    for number, line in enumerate(lines):
        if not (parts := re.fullmatch(r"In (.+?), at ([^,]+), (.+?):?", line)):
            continue
        what = parts[3]
        for names, place in re.findall(r'remove ("[^" ]+"(?: and "[^" ]+")*)(?: from (\S+[^:]))?', what):
            for name in names.split(" and "):
                holder = at(document, place or parts[2])
                (holder.remove if isinstance(holder, list) else holder.pop)(json.loads(name))
        if added := re.match(r'add "(.+)"', what):
            at(document, parts[2]).append(added[1])
        for below in lines[number + 1 :]:
            if not below.startswith("  "):
                break
            at(document, parts[2]).update(json5.loads(f"{{{below}}}"))
    return document


def at(document: Any, keys: str) -> Any:
    for key in re.findall(r"[\w-]+", keys):
        document = document.setdefault(key, {})
    return document


def printed(home: Path) -> Iterator[tuple[str, str]]:
    """The files that come of all that we tell people to write, by name."""
    for name in ("old-place", "old-place-and-slot", "both-places", "slot-not-set", "slot-of-another", "slot-none",
                 "not-enabled", "no-plugins", "denied", "not-allowed", "unknown-backend"):  # fmt: skip
        document = json5.loads(FORMS[name])
        written(home, FORMS[name])
        for finding in warnings(home):
            document = applied(document, finding.remedy)
        yield f"mended-{name}", json.dumps(document) + "\n"
    for name, old_place in (("config", False), ("old-place-and-slot", True)):
        found = Rollback(home, home, home, {}, {}, {}, applied=True, old_place=old_place)
        text = "\n".join(rollback_messages.lines(found))
        start = json5.loads(FORMS[name])
        start["plugins"]["entries"]["nima-memory"].pop("identity_name", None)
        yield f"rolled-back-{name}", json.dumps(applied(start, text)) + "\n"
    pages = (CHECKOUT / page for page in ("docs/GUIDE.md", "docs/OPERATING.md", "README.md"))
    fenced = (re.findall(r"```json5\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE) for page in pages)
    blocks = [textwrap.dedent(block) for found in fenced for block in found]
    assert blocks
    yield from ((f"documented-{number}", block) for number, block in enumerate(blocks, 1))


# Always


@pytest.mark.parametrize("name", FORMS)
def test_the_doctor_says_of_each_form_what_openclaw_says(home: Path, name: str) -> None:
    """As `openclaw config validate` of OpenClaw 2026.9.6 has it; see the golden files."""
    said = golden(name)
    assert said.document == FORMS[name]
    written(home, said.document)
    found = warnings(home)
    assert bool(found) is not said.fine, (said.answer, found)
    assert said.accepted or any("refuses the file" in each.text or "does not know" in each.text for each in found)
    assert said.disabled is any("nima-memory is disabled" in each.text for each in found if said.accepted)


@pytest.mark.parametrize("name", FORMS)
def test_a_plugin_that_openclaw_disables_is_not_migrated_by_itself(home: Path, name: str) -> None:
    """But for a slot that the file does not name, and settings in the old place: releases differ in these."""
    found = read_openclaw(written(home, FORMS[name]))
    if name in ("slot-not-set", "old-place"):
        assert found.why_not is None
    elif golden(name).disabled:
        assert not found.enabled
        assert found.why_not is not None
        assert found.why_not.startswith("plugins.")


def test_what_we_tell_people_to_write_is_what_openclaw_accepted(home: Path) -> None:
    """Every file that comes of it, as `openclaw config validate` of OpenClaw 2026.9.6 was shown it."""
    for name, document in printed(home):
        if not UPDATE:
            assert golden(name).document == document, name
            assert golden(name).fine, name
        written(home, document)
        assert not warnings(home), name


def test_what_is_too_long_to_be_repeated_is_named_alone(home: Path) -> None:
    long = json.dumps("x" * 10_000)
    written(
        home,
        plugins(f'"slots": {{"memory": {long}}}', entry=f'"identity_name": {long}, "database": {{"backend": {long}}}'),
    )
    found = warnings(home)
    assert all(len(each.text) + len(each.remedy) < 1_000 for each in found)
    assert any('"identity_name": … as it stands there,' in each.remedy for each in found)


def test_a_key_that_is_refused_and_says_nothing_is_to_be_removed(home: Path) -> None:
    written(home, plugins(MINE, entry='"database": null'))
    (found,) = warnings(home)
    assert found.remedy.endswith('at plugins.entries["nima-memory"], remove "database"')


def test_nothing_that_we_write_or_print_has_the_refused_form() -> None:
    """The old place is named where we read it and where we say that it is refused, and nowhere else."""
    refused = re.compile(r'nima-memory"?\]?(?:"?: \{"?|\.)"?database')
    pages = [*(CHECKOUT / "docs").rglob("*.md"), *CHECKOUT.glob("*.md"), *CHECKOUT.glob("etc/**/*.toml")]
    code = [*(CHECKOUT / "nimad").rglob("*.py"), *(CHECKOUT / "compat").glob("*.py")]
    assert [str(file) for file in pages + code if refused.search(file.read_text(encoding="utf-8"))] == []


# With the real one
