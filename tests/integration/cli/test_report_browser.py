"""The page of a report in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import target, told

from nimad.report.run.page import page

__all__ = ["target"]  # fixtures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Asked for by the page around it, to see that asking is seen.
CONTROL = "http://control.invalid/"
MEASURE = """<img src="http://control.invalid/" alt="">
<iframe src="{page}" width="{width}" height="3000" style="border:0"></iframe><script>
onload = () => {{ const d = document.querySelector("iframe").contentDocument.documentElement;
  const out = [...d.querySelectorAll("body *")].filter(e => !e.closest("svg, .wide, caption, thead")
    && e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80));
  document.title = JSON.stringify({{wide: d.scrollWidth, out, pictures: [...d.querySelectorAll("svg[role]")].map(
    e => e.getBoundingClientRect().width)}}); }}</script>"""


def browse(folder: Path, address: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    alone = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", f"--user-data-dir={folder}/profile")
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [str(CHROMIUM), *alone, *quiet, nowhere, "--enable-logging=stderr", *words, f"file://{address}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def asked_for(log: Path) -> set[str]:
    """What pages asked for. The browser asks for things of its own, of no origin, whatever it is told."""
    facts = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = [each for each in facts if each.get("initiator", "not an origin") != "not an origin"]
    return {each["url"] for each in asked if re.match(r"(?:https?|wss?|ftp):", each.get("url", ""))}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; CI installs one")
def test_a_browser_shows_it_at_any_width_and_asks_nobody(target: Path, tmp_path: Path) -> None:
    written = tmp_path / "report.html"
    written.write_text(page(told(target)))
    for width in (390, 1_200):
        outer = tmp_path / f"{width}.html"
        outer.write_text(MEASURE.format(page=written.name, width=width))
        log = tmp_path / f"{width}.json"
        words = ("--allow-file-access-from-files", f"--log-net-log={log}", "--window-size=1400,3100", "--dump-dom")
        shown = browse(tmp_path, outer, *words)
        said = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
        assert [line for line in said if CONTROL not in line] == []
        title = re.search(r"<title>(.*)</title>", shown.stdout)
        assert title, shown.stdout
        measured = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        assert (measured["wide"] <= width, measured["out"]) == (True, [])
        assert len(measured["pictures"]) == 3
        assert all(width * 0.6 < each <= width for each in measured["pictures"])
        assert asked_for(log) == {CONTROL}
