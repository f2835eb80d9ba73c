"""Setting the service up, in a folder taken for the machine: what is written, what is refused, what is taken back.

That systemd does with it what it should is for `tests/system/service.py`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.memories import make_memory, node

import nimad
from nimad.cli.main import cli
from nimad.errors import CannotWriteError, NimadError, NotAllowedError, UsageError
from nimad.host.rights import UserAccount
from nimad.service import agent_scripts, setup

DROP_IN = Path("etc/systemd/system/nima-migrate.service.d/10-setup.conf")
PROGRAM = [sys.executable, "-P", "-m", "nimad"]


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


def user(home: Path, uid: int | None = None) -> UserAccount:
    return UserAccount("pi", os.getuid() if uid is None else uid, os.getgid(), str(home), known=True)


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
    assert {f"BindReadOnlyPaths=-{home}", f"ReadWritePaths=-{home}/.nima/memory"} <= set(lines(root))
    assert f"RequiresMountsFor={home}/.nima/memory" in lines(root)


def test_what_no_migration_needs_is_not_seen_but_where_something_needed_lies_in_it(root: Path, home: Path) -> None:
    hidden = the_hidden(root, home, None)
    assert {f"InaccessiblePaths=-{home}/.ssh", f"InaccessiblePaths=-{home}/Documents"} <= set(hidden)
    elsewhere = home / "Documents" / "graph.sqlite"
    elsewhere.parent.mkdir()
    shutil.copy(home / ".nima/memory/graph.sqlite", elsewhere)
    assert {*hidden} - {*the_hidden(root, home, elsewhere)} == {f"InaccessiblePaths=-{home}/Documents"}


def the_hidden(root: Path, home: Path, source: Path | None) -> list[str]:
    setup.set_up(user(home), source, PROGRAM, root)
    return [line for line in lines(root) if line.startswith("InaccessiblePaths=")]


def test_the_unit_of_many_hides_the_same_of_a_home() -> None:
    text = (Path(nimad.__file__).parent / "units/nima-migrate@.service").read_text()
    hidden = [word for line in text.splitlines() if line.startswith("Inaccess") for word in line.split("=")[1].split()]
    assert hidden == [f"-/home/%i/{name}" for name in setup.NOT_NEEDED]


def test_without_a_package_it_installs_the_units_to_start_this_program(root: Path, home: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    units = {name: text for name, text in files(root).items() if name.endswith(".service")}
    assert set(units) == {
        "etc/systemd/system/nima-migrate.service",
        "etc/systemd/system/nima-migrate@.service",
        "etc/systemd/user/nima-migrate.service",
    }
    for text in units.values():
        assert f"\nExecStart={sys.executable} -P -m nimad run\n" in text
        assert "ExecReload=/bin/sh" in text
    assert not any(line.startswith("ExecStart") for line in lines(root))


def test_beside_a_package_only_the_drop_in_is_written(root: Path, home: Path) -> None:
    package(root)
    setup.set_up(user(home), None, PROGRAM, root)
    assert [name for name in files(root) if name.startswith("etc")] == [str(DROP_IN)]
    assert lines(root).count("ExecStart=") == 1
    assert f"ExecStart={sys.executable} -P -m nimad run" in lines(root)


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
    assert f"ReadWritePaths=-{tmp_path}/disk" in lines(root)


def test_a_memory_that_is_a_link_to_another_disk_is_opened_there(root: Path, home: Path, tmp_path: Path) -> None:
    (home / ".nima").rename(tmp_path / "disk")
    (home / ".nima").symlink_to(tmp_path / "disk")
    setup.set_up(user(home), None, PROGRAM, root)
    assert f"ReadWritePaths=-{tmp_path}/disk/memory" in lines(root)


def test_a_memory_in_a_shared_home_is_bound_there(root: Path, home: Path, tmp_path: Path) -> None:
    shared = tmp_path / "home/shared"
    shared.mkdir()
    source = make_memory(shared / "graph.sqlite", nodes=[node(1)])
    setup.set_up(user(home), source, PROGRAM, root)
    assert f"BindPaths=-{shared}" in lines(root)


def test_words_that_systemd_would_take_apart_are_quoted(root: Path, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" 50%'
    folder.mkdir()
    source = make_memory(folder / "graph.sqlite", nodes=[node(1)])
    setup.set_up(user(home), source, PROGRAM, root)
    quoted = str(folder).replace('"', '\\"').replace("%", "%%")
    assert f'Environment="NIMA_DB_PATH={quoted}/graph.sqlite"' in lines(root)
    assert f'ReadWritePaths=-"{quoted}"' in lines(root)


def test_the_settings_file_of_the_machine_says_where_the_memory_is(root: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    make_memory(tmp_path / "disk/graph.sqlite", nodes=[node(1)])
    (root / "etc/nima").mkdir(parents=True)
    (root / "etc/nima/nimad.toml").write_text(f'[source]\npath = "{tmp_path}/disk/graph.sqlite"\n')
    setup.set_up(user(home), None, PROGRAM, root)
    assert f"ReadWritePaths=-{tmp_path}/disk" in lines(root)
    assert not any("NIMA_DB_PATH" in line for line in lines(root))


def test_the_folder_of_the_metrics_is_opened_too(root: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "node-exporter").mkdir()
    (root / "etc/nima").mkdir(parents=True)
    (root / "etc/nima/nimad.toml").write_text(f'[metrics]\nfile = "{tmp_path}/node-exporter/nimad.prom"\n')
    setup.set_up(user(home), None, PROGRAM, root)
    assert f"ReadWritePaths=-{tmp_path}/node-exporter" in lines(root)


def refusal(root: Path, account: UserAccount, source: Path | None = None, program: list[str] = PROGRAM) -> NimadError:
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


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b", "\u2028", "\udcff"])
def test_no_name_of_a_folder_becomes_lines_of_a_unit(root: Path, home: Path, tmp_path: Path, sign: str) -> None:
    """A link in the user's home leads to such a folder: systemd would run what a line of the unit says as root."""
    folder = tmp_path / f"x{sign}[Service]{sign}ExecStartPre=+{home}/program"
    folder.mkdir(parents=True)
    (home / ".nima/memory/graph.sqlite").rename(folder / "graph.sqlite")
    shutil.rmtree(home / ".nima/memory")
    (home / ".nima/memory").symlink_to(folder)
    error = refusal(root, user(home))
    assert isinstance(error, UsageError)
    assert "has control characters or is no UTF-8, so it cannot stand in a unit" in str(error)
    assert sign not in str(error)
    assert files(root) == {}


def test_a_program_in_the_home_of_another(root: Path, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "home/maya"
    other.mkdir()
    (other / "nimad").symlink_to(shutil.which("true") or "/bin/true")
    error = refusal(root, user(home), program=[str(other / "nimad")])
    assert isinstance(error, NotAllowedError)
    assert f"pi's service cannot reach {other}/nimad" in str(error)


def test_a_user_who_is_only_a_number(root: Path, home: Path) -> None:
    error = refusal(root, UserAccount("4711", 4711, 4711))
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


# The agent's scripts


@pytest.fixture
def plugin(home: Path) -> Path:
    """The folder of nima-core's plugin, with a script of its own."""
    folder = home / agent_scripts.FOLDER
    folder.mkdir(parents=True)
    (folder / "migrate_to_ladybug.py").write_text("print('of nima-core')\n")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_undo_puts_back_what_the_scripts_took_the_place_of(root: Path, home: Path, plugin: Path) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    undone = setup.undo(root)
    assert undone.put_back == [plugin / "migrate_to_ladybug.py"]
    assert names(plugin) == ["migrate_to_ladybug.py"]
    assert (plugin / "migrate_to_ladybug.py").read_text() == "print('of nima-core')\n"


def test_a_script_that_nima_core_brought_later_is_kept_too_and_not_taken_away(
    root: Path, home: Path, plugin: Path
) -> None:
    setup.set_up(user(home), None, PROGRAM, root)
    (plugin / "migrate_to_ladybug.py").write_text("print('of a newer nima-core')\n")
    setup.undo(root)
    assert (plugin / "migrate_to_ladybug.py").read_text() == "print('of a newer nima-core')\n"
    setup.set_up(user(home), None, PROGRAM, root)
    setup.undo(root)
    assert (plugin / "migrate_to_ladybug.py").read_text() == "print('of a newer nima-core')\n"


def test_without_drop_ins_the_plugin_stays_as_it_is(root: Path, home: Path, plugin: Path) -> None:
    assert not setup.set_up(user(home), None, PROGRAM, root, drop_ins=False).scripts
    assert names(plugin) == ["migrate_to_ladybug.py"]
    setup.set_up(user(home), None, PROGRAM, root)
    taken_back = setup.set_up(user(home), None, PROGRAM, root, drop_ins=False)
    assert taken_back.put_back == [plugin / "migrate_to_ladybug.py"]
    assert names(plugin) == ["migrate_to_ladybug.py"]


@pytest.mark.parametrize("name", agent_scripts.NAMES)
def test_a_link_in_the_place_of_a_script_is_not_followed(root: Path, home: Path, plugin: Path, name: str) -> None:
    mine = home / "mine.py"
    mine.write_text("print('mine')\n")
    (plugin / name).unlink(missing_ok=True)
    (plugin / name).symlink_to(mine)
    error = refusal(root, user(home))
    assert isinstance(error, NotAllowedError)
    assert f"{plugin}/{name} is a symbolic link, which setup does not replace; remove it" in str(error)
    assert "--no-drop-ins" in str(error)
    assert mine.read_text() == "print('mine')\n"


def test_a_folder_in_the_place_of_a_script_is_refused(root: Path, home: Path, plugin: Path) -> None:
    (plugin / "health_check.py").mkdir()
    assert "health_check.py is no plain file; move it away" in str(refusal(root, user(home)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root meets other people's files")
def test_a_strangers_script_is_refused(root: Path, home: Path, plugin: Path) -> None:
    (plugin / "health_check.py").write_text("")
    os.chown(plugin / "health_check.py", 12_346, 12_346)
    assert "health_check.py belongs to 12346, and not to pi; move it away" in str(refusal(root, user(home)))


def test_a_home_that_is_not_hers_gets_no_scripts(home: Path, plugin: Path) -> None:
    assert plugin.is_dir()
    assert agent_scripts.place_of(user(home, uid=os.getuid() + 1)) is None


def test_a_script_that_cannot_be_written_leaves_all_as_it_was(root: Path, home: Path, plugin: Path) -> None:
    (plugin / ".health_check.py.part").mkdir()  # the last of them fails
    error = refusal(root, user(home))
    assert isinstance(error, CannotWriteError)
    assert "cannot be written by its owner (Is a directory); make that possible, or leave the scripts" in str(error)
    assert names(plugin) == [".health_check.py.part", "migrate_to_ladybug.py"]
    assert (plugin / "migrate_to_ladybug.py").read_text() == "print('of nima-core')\n"


def test_the_command_says_what_became_of_the_scripts(
    root: Path, home: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimad.cli.setup.account_of", lambda _: user(home))
    command = ["setup", "--user", "pi", "--root", str(root)]
    done = CliRunner().invoke(cli, command)
    assert f"Wrote {plugin}/migrate_to_ladybug.py\n" in done.output
    assert f"Kept what was there as {plugin}/migrate_to_ladybug.py.backup-2" in done.output
    undone = CliRunner().invoke(cli, ["setup", "--undo", "--root", str(root)])
    assert f"Put back {plugin}/migrate_to_ladybug.py\n" in undone.output
    shutil.rmtree(plugin)
    without = CliRunner().invoke(cli, command)
    assert f"No drop-ins: there is no {plugin} of pi's\n" in without.output


def test_the_units_of_one_and_of_many_differ_only_in_whose_memory_it_is() -> None:
    units = Path(nimad.__file__).parent / "units"
    one, many = (
        {line for line in (units / name).read_text().splitlines() if line and not line.startswith(("#", "Descr"))}
        for name in ("nima-migrate.service", "nima-migrate@.service")
    )
    assert one - many == {"DynamicUser=yes", "Environment=HOME=/nonexistent", "ProtectHome=yes"}
    assert {line.split("=")[0] for line in many - one} == {
        *("After", "User", "ProtectHome", "BindReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths"),
    }
