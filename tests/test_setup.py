"""Setting the service up, in a folder taken for the machine: what is written, what is refused, what is taken back.

That systemd does with it what it should is for `tests/system/service.py`.
"""

import os
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import make_memory, node

import nimad
from nimad.cli.main import cli
from nimad.errors import CannotWriteError, NimadError, NotAllowedError, UsageError
from nimad.rights import Account
from nimad.service import setup

DROP_IN = Path("etc/systemd/system/nima-migrate.service.d/10-setup.conf")
PROGRAM = [sys.executable, "-m", "nimad"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user with a memory. It and all other homes are what the service finds empty."""
    folder = tmp_path / "home/pi"
    (folder / ".nima/memory").mkdir(parents=True)
    make_memory(folder / ".nima/memory/graph.sqlite", nodes=[node(1)])
    monkeypatch.setattr(setup, "HIDDEN", (str(tmp_path / "home"),))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with nothing on it."""
    (tmp_path / "machine").mkdir()
    return tmp_path / "machine"


def user(home: Path, uid: int | None = None) -> Account:
    return Account("pi", os.getuid() if uid is None else uid, os.getgid(), str(home), known=True)


def package(root: Path) -> Path:
    """The units, where a package puts them."""
    folder = root / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    shutil.copy(Path(nimad.__file__).parent / "units/nima-migrate.service", folder)
    return folder


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def lines(root: Path) -> list[str]:
    return (root / DROP_IN).read_text().splitlines()


def test_it_names_the_user_and_opens_the_home_and_the_folder_of_the_memory(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    assert {"User=pi", "DynamicUser=no", f"Environment=HOME={home}", "ProtectHome=tmpfs"} <= set(lines(root))
    assert {f"BindReadOnlyPaths={home}", f"ReadWritePaths={home}/.nima/memory"} <= set(lines(root))
    assert f"RequiresMountsFor={home}/.nima/memory" in lines(root)


def test_without_a_package_it_installs_the_units_to_start_this_program(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    units = {name: text for name, text in files(root).items() if name.endswith(".service")}
    assert set(units) == {
        "etc/systemd/system/nima-migrate.service",
        "etc/systemd/system/nima-migrate@.service",
        "etc/systemd/user/nima-migrate.service",
    }
    for text in units.values():
        assert f"\nExecStart={sys.executable} -m nimad run\n" in text
        assert "ExecReload=/bin/sh" in text
    assert not any(line.startswith("ExecStart") for line in lines(root))


def test_beside_a_package_only_the_drop_in_is_written(root: Path, home: Path) -> None:
    package(root)
    setup.set_up(user(home), None, PROGRAM, root)
    assert [name for name in files(root) if name.startswith("etc")] == [str(DROP_IN)]
    assert lines(root).count("ExecStart=") == 1
    assert f"ExecStart={sys.executable} -m nimad run" in lines(root)


def test_a_package_that_came_later_takes_over_its_units(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    package(root)
    written = setup.set_up(user(home), None, PROGRAM, root)
    assert len(written.removed) == 3
    assert [name for name in files(root) if name.startswith("etc")] == [str(DROP_IN)]


def test_setting_up_again_changes_nothing(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    before = files(root)
    written = setup.set_up(user(home), None, PROGRAM, root)
    assert (written.changed, written.removed, files(root)) == ([], [], before)


def test_undo_takes_back_all_of_it_and_nothing_else(root: Path, home: Path) -> None:
    other = root / DROP_IN.with_name("20-mine.conf")
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\nNice=5\n")
    setup.set_up(user(home), None, PROGRAM, root)
    assert len(setup.undo(root).removed) == 4
    assert list(files(root)) == [str(other.relative_to(root))]


def test_undo_leaves_no_empty_folder_and_may_be_repeated(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    setup.undo(root)
    assert not (root / DROP_IN).parent.exists()
    assert setup.undo(root).removed == []


def test_a_file_of_somebody_else_is_neither_replaced_nor_taken_away(root: Path, home: Path) -> None:
    mine = root / DROP_IN
    mine.parent.mkdir(parents=True)
    mine.write_text("[Service]\nUser=maya\n")
    with pytest.raises(CannotWriteError, match=f"{mine} was not written by nimad setup; move it away"):
        setup.set_up(user(home), None, PROGRAM, root)
    setup.undo(root)
    assert files(root) == {str(DROP_IN): "[Service]\nUser=maya\n"}


def test_a_source_that_was_typed_is_what_the_service_reads(root: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    source = make_memory(tmp_path / "disk/other.sqlite", nodes=[node(1)])
    setup.set_up(user(home), source, PROGRAM, root)
    assert f"Environment=NIMA_DB_PATH={source}" in lines(root)
    assert f"ReadWritePaths={tmp_path}/disk" in lines(root)


def test_a_memory_that_is_a_link_to_another_disk_is_opened_there(root: Path, home: Path, tmp_path: Path) -> None:
    (home / ".nima").rename(tmp_path / "disk")
    (home / ".nima").symlink_to(tmp_path / "disk")
    setup.set_up(user(home), None, PROGRAM, root)
    assert f"ReadWritePaths={tmp_path}/disk/memory" in lines(root)


def test_a_memory_in_a_shared_home_is_bound_there(root: Path, home: Path, tmp_path: Path) -> None:
    shared = tmp_path / "home/shared"
    shared.mkdir()
    source = make_memory(shared / "graph.sqlite", nodes=[node(1)])
    setup.set_up(user(home), source, PROGRAM, root)
    assert f"BindPaths={shared}" in lines(root)


def test_words_that_systemd_would_take_apart_are_quoted(root: Path, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" 50%'
    folder.mkdir()
    source = make_memory(folder / "graph.sqlite", nodes=[node(1)])
    setup.set_up(user(home), source, PROGRAM, root)
    quoted = str(folder).replace('"', '\\"').replace("%", "%%")
    assert f'Environment="NIMA_DB_PATH={quoted}/graph.sqlite"' in lines(root)
    assert f'ReadWritePaths="{quoted}"' in lines(root)


def test_the_settings_file_of_the_machine_says_where_the_memory_is(root: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    make_memory(tmp_path / "disk/graph.sqlite", nodes=[node(1)])
    (root / "etc/nima").mkdir(parents=True)
    (root / "etc/nima/nimad.toml").write_text(f'[source]\npath = "{tmp_path}/disk/graph.sqlite"\n')
    setup.set_up(user(home), None, PROGRAM, root)
    assert f"ReadWritePaths={tmp_path}/disk" in lines(root)
    assert not any("NIMA_DB_PATH" in line for line in lines(root))


def refusal(root: Path, account: Account, source: Path | None = None, program: list[str] = PROGRAM) -> NimadError:
    with pytest.raises(NimadError) as raised:
        setup.set_up(account, source, program, root)
    assert files(root) == {}, "nothing is written when something stands against it"
    assert "\n" not in str(raised.value)
    return raised.value


def test_no_memory_there(root: Path, home: Path) -> None:
    shutil.rmtree(home / ".nima")
    error = refusal(root, user(home))
    assert isinstance(error, UsageError)
    assert "pi has no memory there; name it with --source" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_a_memory_that_is_closed_to_the_user(root: Path, home: Path) -> None:
    error = refusal(root, user(home, uid=12_345))
    assert isinstance(error, NotAllowedError)
    assert "pi may not read" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_a_folder_that_the_user_cannot_write_in(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    open_to_all = Path(tmp_path_factory.mktemp("open"))
    # Up to the first that is not closed, whose number differs with the number of processes.
    for folder in takewhile(lambda each: not each.stat().st_mode & 0o001, (open_to_all, *open_to_all.parents)):
        folder.chmod(0o755)
    source = make_memory(open_to_all / "graph.sqlite", nodes=[node(1)])
    error = refusal(root, user(open_to_all, uid=12_345), source)
    assert f"pi may not write in {open_to_all}" in str(error)


def test_a_program_in_the_home_of_another(root: Path, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "home/maya"
    other.mkdir()
    (other / "nimad").symlink_to(shutil.which("true") or "/bin/true")
    error = refusal(root, user(home), program=[str(other / "nimad")])
    assert isinstance(error, NotAllowedError)
    assert f"pi's service cannot reach {other}/nimad" in str(error)


def test_a_user_who_is_only_a_number(root: Path, home: Path) -> None:
    error = refusal(root, Account("4711", 4711, 4711))
    assert isinstance(error, UsageError)
    assert str(home) not in str(error)


def test_only_root_may_set_up_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    with pytest.raises(NotAllowedError, match="put sudo before the command"):
        setup.undo()


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd is here")
def test_a_machine_without_systemd_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match="not run by systemd"):
        setup.undo()


def test_a_unit_that_systemd_does_not_accept_is_taken_back(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "/etc/systemd/system/nima-migrate.service:3: Unknown key name 'Nicely' in section 'Service', ignoring."
    bad = subprocess.CompletedProcess(["systemd-analyze"], 0, "", said)
    setup.set_up(user(home), None, PROGRAM, root)
    before = files(root)
    monkeypatch.setattr(setup, "_SYSTEM", root)
    monkeypatch.setattr(setup, "_check_machine", lambda _: None)
    monkeypatch.setattr(setup, "_settings", lambda account, _, __: nimad.Settings(source=Path(account.home, "x/g")))
    monkeypatch.setattr(setup, "_check_memory", lambda _: None)
    monkeypatch.setattr(setup, "_systemd", lambda *_: bad)
    with pytest.raises(NimadError, match=r"nothing was changed: .*Nicely"):
        setup.set_up(user(home), None, PROGRAM, root)
    assert files(root) == before


def test_the_command_says_what_it_wrote_and_what_to_type_next(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimad.cli.setup.account_of", lambda _: user(home))
    done = CliRunner().invoke(cli, ["setup", "--user", "pi", "--root", str(root)])
    assert done.exit_code == 0, done.output
    assert f"Wrote {root / DROP_IN}" in done.output
    assert "sudo systemctl enable --now nima-migrate" in done.output
    assert "journalctl -fu nima-migrate" in done.output
    again = CliRunner().invoke(cli, ["setup", "--user", "pi", "--root", str(root)])
    assert "Set up already" in again.output
    undone = CliRunner().invoke(cli, ["setup", "--undo", "--root", str(root)])
    assert undone.output.count("Removed ") == 4


def test_a_set_up_needs_a_user(root: Path) -> None:
    done = CliRunner().invoke(cli, ["setup", "--root", str(root)])
    assert isinstance(done.exception, UsageError)
    assert "sudo nimad setup --user NAME" in str(done.exception)


def test_the_units_of_one_and_of_many_differ_only_in_whose_memory_it_is() -> None:
    units = Path(nimad.__file__).parent / "units"
    one, many = (
        {line for line in (units / name).read_text().splitlines() if line and not line.startswith(("#", "Descr"))}
        for name in ("nima-migrate.service", "nima-migrate@.service")
    )
    assert one - many == {"DynamicUser=yes", "Environment=HOME=/nonexistent", "ProtectHome=yes"}
    assert {line.split("=")[0] for line in many - one} == {
        *("User", "ProtectHome", "BindReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths"),
    }
