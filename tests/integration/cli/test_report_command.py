"""`nimad report` as it is typed, of a real run."""

import json
import stat
from pathlib import Path

from support.commands import nimad
from support.memories import make_memory, migrate, node
from test_report import Checked

from nimad.state.paths import Files
from nimad.state.run_history_reader import read_history


def test_the_command_of_a_real_run(tmp_path: Path) -> None:
    source = make_memory(tmp_path / "graph.sqlite", nodes=[node(n, text="seven telescopes") for n in range(1, 20)])
    target = migrate(source).target
    done = nimad(tmp_path, "report", "--target", target)
    assert (done.code, done.err) == (0, "")
    place = tmp_path / "graph.ladybug.report.html"
    sentence = "19 memories were moved; every row and column was compared; nothing was set aside."
    assert done.out == f"{sentence}\nReport: {place}\n"
    assert stat.filemode(place.stat().st_mode) == "-rw-------"
    written = place.read_text()
    Checked(written)
    assert "telescopes" not in written
    run = read_history(Files(target).runs)[0].run
    facts = json.loads(nimad(tmp_path, "report", "--target", target, "--json", "--run", run[:6]).out)
    assert (facts["run"], facts["moved"][0]["target"]) == (run, 19)
    printed = nimad(tmp_path, "report", "--target", target, "--text", "--output", "r.txt")
    assert printed.code == 0
    assert (tmp_path / "r.txt").read_text().startswith(sentence)
    for words, code, said in (
        (("--run", "zz"), 2, "tells of no run 'zz'"),
        (("--text", "--json"), 2, "run it twice"),
        (("--output", "nowhere/x.html"), 73, "nowhere/x.html cannot be written (No such file or directory); name"),
    ):
        wrong = nimad(tmp_path, "report", "--target", target, *words)
        assert said in wrong.err, wrong.err
        assert "Traceback" not in wrong.err
        assert wrong.code == code
    nothing = nimad(tmp_path, "report", "--target", "no.ladybug")
    assert (nothing.code, "name a finished target with --target" in nothing.err) == (2, True)
