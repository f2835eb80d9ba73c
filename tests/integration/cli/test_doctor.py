"""`nimad doctor`: each of its lines says what was found, and the command under one mends it; it changes nothing."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.commands import GOLDEN, nimad
from support.environments import NAMESAKE, OLDEST, MakeEnvironment
from support.memories import copied, make_memory, migrate, node
from test_bad_input import everything_in, restricted
from test_health import NODES

from nimad.config import Settings
from nimad.diagnostics import doctor
from nimad.diagnostics.checks import units
from nimad.diagnostics.checks.finding import Examined, Finding, Verdict, ok, problem, warning
from nimad.diagnostics.doctor import CHECKS, Report, examine
from nimad.diagnostics.service_state import Unit
from nimad.report.console.symbols import Symbols
from nimad.report.messages.doctor_screen import lines
from nimad.service.disks import mount_of

__all__ = ["restricted"]

NAMES = [name for name, _ in CHECKS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    migrate(make_memory(folder / "graph.sqlite", nodes=NODES), reader_python=Path("none"))
    return folder


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def examined(folder: Path, **settings: Any) -> dict[str, list[Finding]]:
    """The findings by their check, as of one who is asked in this process."""
    given = {"reader_python": Path("none"), "openclaw_file": folder / "openclaw.json", **settings}
    report = examine(lambda: Settings(source=folder / "graph.sqlite", **given))
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    return found


def worst(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.verdict)


def test_where_all_is_well_every_check_has_a_line_and_nothing_changes(made: Path) -> None:
    before = everything_in(made)
    done = nimad(made, "doctor", "--source", "graph.sqlite", "--reader-python", "none", "--json", LC_ALL="C.UTF-8")
    found = json.loads(done.out)
    assert (done.code, done.err) == (0, ""), found
    assert (found["ok"], found["verdict"]) == (True, "ok")
    assert list(dict.fromkeys(each["check"] for each in found["findings"])) == NAMES
    assert everything_in(made) == before


def test_a_page_of_findings_is_the_golden_one() -> None:
    report = Report(
        [
            ok("machine", "Raspberry Pi 5 Model B Rev 1.0 (aarch64), 4 processors, Linux 6.12.25+rpt-rpi-2712"),
            ok("locks", "nimad run is at work on the target (PID 712)"),
            ok("locks", "graph.sqlite is open in PID 640: node dist/index.js gateway"),
            warning("leftovers", "2 older than 30 days that may go, 138 MB", "nimad clean --target /srv/graph.ladybug"),
            problem("engine", "import ladybug finds ladybug-core 0.44.62: a weather-file library, and no database"),
        ]
    )
    page = "".join(f"{line.text}\n" for line in lines(report, Symbols()))
    if os.environ.get("NIMAD_UPDATE_GOLDEN") == "1":
        (GOLDEN / "doctor.txt").write_text(page)
    assert page == (GOLDEN / "doctor.txt").read_text()
    assert report.verdict is Verdict.PROBLEM


def test_one_check_that_fails_is_a_line_and_stops_no_other(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Examined) -> Iterator[Finding]:
        raise ZeroDivisionError("in the middle")

    broken = [(name, fails if name == "disk" else check) for name, check in CHECKS]
    monkeypatch.setattr(doctor, "CHECKS", broken)
    found = examined(made)
    assert list(found) == NAMES
    assert found["disk"] == [
        warning("disk", "this check failed, which is a bug of nimad's: ZeroDivisionError: in the middle")
    ]


def test_settings_that_cannot_be_read_are_a_problem_and_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "nimad.toml").write_text("[batch]\nsize = 0\n")
    done = nimad(tmp_path, "doctor", "--config", "nimad.toml")
    assert (done.code, done.err) == (2, "")
    assert "settings" in done.out.splitlines()[0]
    assert "must be at least 1" in done.out
    assert "page size" in done.out
    assert done.out.rstrip().endswith("1 problem")


# The memory and its files


def test_without_a_memory_one_line_says_so_and_the_rest_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")  # as the language of the system is a finding of its own
    found = examined(tmp_path / "nowhere")
    assert worst(found.pop("source")).verdict is Verdict.PROBLEM
    assert [each for findings in found.values() for each in findings if each.verdict is not Verdict.OK] == []


def test_a_damaged_memory_is_a_problem(tmp_path: Path) -> None:
    path = make_memory(tmp_path / "graph.sqlite", nodes=[node(key, text="x" * 900) for key in range(1, 60)])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "truncated" in worst(examined(tmp_path)["source"]).text


def test_something_else_in_the_targets_place_is_a_problem(tmp_path: Path) -> None:
    folder = tmp_path / "my agent's"
    folder.mkdir()
    make_memory(folder / "graph.sqlite", nodes=NODES)
    (folder / "graph.ladybug").write_text("not a database")
    found = worst(examined(folder)["storage version"])
    assert "it is in the way" in found.text
    assert shlex.split(found.remedy) == ["file", str(folder / "graph.ladybug")]


def test_a_target_of_a_newer_engine_than_ours_is_a_problem(pair: Path) -> None:
    with (pair / "graph.ladybug").open("r+b") as file:
        file.seek(4)
        file.write((9_999).to_bytes(8, "little"))
    assert "has 9999, and the newest LadybugDB here opens up to" in worst(examined(pair)["storage version"]).text


def test_an_interrupted_migration_and_a_pause_are_warnings_with_the_way_on(pair: Path) -> None:
    (pair / "graph.ladybug").rename(pair / "graph.ladybug.migrating")
    state = pair / "graph.ladybug.state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "phase": "loading memory_nodes"}))
    found = worst(examined(pair)["migration"])
    assert (found.verdict, found.text) == (Verdict.WARNING, "interrupted, and nobody is at it")
    assert " migrate --source " in found.remedy
    (pair / "graph.ladybug.paused").touch()
    paused = worst(examined(pair)["migration"])
    assert paused.text.startswith("paused since ")
    assert " resume --target " in paused.remedy


def test_what_is_left_for_long_is_a_warning_with_the_command_that_removes_it(tmp_path: Path) -> None:
    migrate(make_memory(tmp_path / "graph.sqlite", nodes=NODES), reader_python=Path("none"))  # no copy of its source
    (tmp_path / "graph.ladybug.wal.20200101-000000").write_bytes(b"a log that could not be read")
    (tmp_path / "migration.log.1").write_text("older\n")
    found = examined(tmp_path)["leftovers"]
    assert "1 older than 30 days that may go" in found[0].text
    assert shlex.split(found[0].remedy)[-5:] == [
        *("clean", "--source", f"{tmp_path}/graph.sqlite", "--target", f"{tmp_path}/graph.ladybug"),
    ]
    assert "1 older log, " in found[1].text


def test_a_folder_that_is_closed_to_this_user_is_a_problem(pair: Path, restricted: list[str]) -> None:
    pair.chmod(0o555)
    try:
        done = nimad(pair, "doctor", "--source", "graph.sqlite", "--reader-python", "none", "--json", prefix=restricted)
    finally:
        pair.chmod(0o755)
    said = {each["check"]: each for each in json.loads(done.out)["findings"]}
    assert done.code == 2
    assert said["permissions"]["verdict"] == "problem"
    assert "cannot be written to by this user" in said["permissions"]["text"]


def test_a_run_at_work_and_whoever_has_a_file_open_are_named(pair: Path) -> None:
    code = f"import fcntl; f = open({str(pair / 'graph.ladybug.lock')!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    code += f"g = open({str(pair / 'graph.sqlite')!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        said = [finding.text for finding in examined(pair)["locks"]]
        holder.communicate(b"\n")
    assert any(text.endswith(f"is at work on the target (PID {holder.pid})") for text in said)
    assert any(text.startswith(f"graph.sqlite is open in PID {holder.pid}: python") for text in said)
    (left,) = examined(pair)["locks"]
    assert "nobody holds it" in left.text


# OpenClaw


@pytest.mark.parametrize(
    ("content", "verdict", "said"),
    [
        ("{", Verdict.PROBLEM, "line 1"),
        (
            '{"plugins": {"entries": {"nima-memory": {"config": {"database": {"backend": "sqlite"}}}}}}',
            Verdict.OK,
            "asks for none",
        ),
        (
            '{"plugins": {"entries": {"nima-memory": {"config": {"database": {"backend": "ladybugdb"}}}}}}',
            Verdict.WARNING,
            "has the agent read LadybugDB",
        ),
    ],
)
def test_openclaws_file_is_read_and_held_against_what_is_there(
    tmp_path: Path, content: str, verdict: Verdict, said: str
) -> None:
    make_memory(tmp_path / "graph.sqlite", nodes=NODES)
    (tmp_path / "openclaw.json").write_text(content)
    (found,) = examined(tmp_path)["OpenClaw"]
    assert found.verdict is verdict
    assert said in found.text


# Engines


def test_the_weather_file_library_is_found_in_an_agents_python_with_the_command_that_mends_it(
    made: Path, make_environment: MakeEnvironment
) -> None:
    agent = make_environment(NAMESAKE)
    found = worst(examined(made, reader_python=agent.python)["readers"])
    assert "is ladybug-core" in found.text
    assert found.remedy.startswith(f"env -C / {agent.python} -m pip uninstall -y ladybug-core && ")


def test_an_agent_whose_engine_is_too_old_for_the_target_is_a_problem(
    made: Path, make_environment: MakeEnvironment
) -> None:
    agent = make_environment(OLDEST)
    found = worst(examined(made, reader_python=agent.python)["readers"])
    assert found.verdict is Verdict.PROBLEM
    assert f"cannot open {made}/graph.ladybug (storage version 49)" in found.text
    assert found.remedy.endswith(f"--target {made}/graph.ladybug --replace")


def test_the_weather_file_library_beside_our_engine_is_a_warning_with_the_command_that_mends_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "ladybug_core-0.44.62.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ladybug-core\nVersion: 0.44.62\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = worst(examined(made)["engine"])
    assert found.verdict is Verdict.WARNING
    assert "wins the import, but ladybug-core 0.44.62 has the same name" in found.text
    assert "pip uninstall -y ladybug-core && " in found.remedy


# The machine and the service


def test_a_mount_is_told_by_the_longest_name_and_a_disk_by_what_it_is(tmp_path: Path) -> None:
    mount = mount_of(tmp_path)
    assert str(tmp_path).startswith(mount.point)
    assert mount_of(Path("/proc/self")).kind == "proc"


@pytest.mark.parametrize(
    ("unit", "verdict", "remedy"),
    [
        ({"LoadState": "not-found"}, Verdict.OK, ""),
        ({"LoadState": "loaded", "ActiveState": "active", "StatusText": "Complete"}, Verdict.OK, ""),
        ({"LoadState": "loaded", "ActiveState": "failed"}, Verdict.PROBLEM, "systemctl restart nima-migrate"),
        ({"LoadState": "bad-setting"}, Verdict.PROBLEM, "systemctl status nima-migrate"),
        ({"LoadState": "loaded", "NeedDaemonReload": "yes"}, Verdict.WARNING, "systemctl daemon-reload"),
        (
            {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "enabled"},
            Verdict.PROBLEM,
            "systemctl start nima-migrate",
        ),
        ({"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"}, Verdict.OK, ""),
        (
            {"LoadState": "loaded", "ActiveState": "failed", "User": "nobody-of-that-name"},
            Verdict.PROBLEM,
            "sudo nimad setup --user NEW",
        ),
        ({"LoadState": "loaded", "SubState": "auto-restart"}, Verdict.WARNING, "journalctl -u nima-migrate -n 20"),
    ],
)
def test_a_unit_is_judged_by_what_systemd_says(unit: Mapping[str, str], verdict: Verdict, remedy: str) -> None:
    found = units._judged(Unit(unit, "systemctl"), "journalctl")
    assert (found.verdict, found.remedy) == (verdict, remedy)
