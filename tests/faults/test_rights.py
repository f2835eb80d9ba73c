"""Whose files they are: the memory owner's alone, at every moment, and root is led into no folder of another user."""

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from support.commands import TIMEOUT_S, Ran, environment, nimad
from support.environments import OLDEST, Environment, MakeEnvironment
from support.memories import make_memory, migrate, node
from support.torture import LOOK_S, Life, beside, staging_of, target_of
from support.users import ALICE, BOB, ROOT, folder_of, given

from nimad.errors import ExitCode, NotAllowedError, UsageError
from nimad.state.paths import Files, check_names, replace_text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

#: What a run writes while it goes on. The rest comes and goes with the engine's checkpoints.
WHILE_IT_RUNS = {
    ".migrating",
    ".migrating.ledger",
    ".migrating.quarantine.jsonl",
    ".state.json",
    ".runs.jsonl",
    ".lock",
}


@pytest.fixture
def alice(ground: Path) -> Path:
    """Her memory, in a folder of hers; one of its rows is for the quarantine."""
    folder = folder_of(ALICE, ground / "alice")
    nodes = [node(1, timestamp="noon"), *(node(number) for number in range(2, 61))]
    return given(ALICE, make_memory(folder / "graph.sqlite", nodes=nodes))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Looks:
    """Every file that was ever seen in a folder while the block ran, as (owner, group, mode)."""

    def __init__(self, folder: Path, *, but: Sequence[str] = ()) -> None:
        self.folder, self.but = folder, (*but, "output-", "graph.sqlite")
        self.seen: dict[str, set[tuple[int, int, str]]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        for entry in os.scandir(self.folder):
            if not entry.name.startswith(self.but):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                look = (status.st_uid, status.st_gid, stat.filemode(status.st_mode))
                self.seen.setdefault(entry.name, set()).add(look)


def assert_hers_alone(looks: Looks, *names: str) -> None:
    assert set(looks.seen) >= set(names)
    well = ({(ALICE, ALICE, "-rw-------")}, {(ALICE, ALICE, "lrwxrwxrwx")})  # a link's own bits say nothing
    wrong = {name: seen for name, seen in looks.seen.items() if seen not in well}
    assert wrong == {}


# Root works for the owner of the memory


def test_what_root_makes_belongs_to_the_memorys_owner_at_every_moment(alice: Path, reaching: list[str]) -> None:
    names = {f"graph.ladybug{suffix}" for suffix in WHILE_IT_RUNS}
    with Looks(alice.parent) as looks, Life(alice, "--fixed-batch", "15", prefix=reaching) as life:
        life.wait_for("Batch 2/")
        life.kill()
    assert_hers_alone(looks, *names, "migration.log")
    with Looks(alice.parent) as looks, Life(alice, "--fixed-batch", "15", prefix=reaching) as life:
        assert life.wait() == ExitCode.QUARANTINED, life.said
    assert_hers_alone(looks, *names, "graph.ladybug", "graph.ladybug.quarantine.jsonl", "migration.log")
    assert (alice.parent / "graph.ladybug.migrating.wal").name in looks.seen, "the engine's own files were looked at"


def test_who_becomes_the_owner_still_ends_with_its_parent(alice: Path, reaching: list[str]) -> None:
    """The kernel forgets that order whenever a process changes its rights."""
    program = f"""
import ctypes, pathlib
from nimad.host import rights
libc, number = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(1, 9, 0, 0, 0)
rights.become_owner(pathlib.Path({str(alice)!r}))
libc.prctl(2, ctypes.byref(number), 0, 0, 0)
print(number.value)
"""
    words = [*reaching, sys.executable, "-c", program]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"9\n"


def test_every_process_of_a_run_of_roots_is_the_owners(alice: Path, reaching: list[str]) -> None:
    """No worker, and no program that it could be made to load, has anything of root's."""
    seen = set()
    with Life(alice, "--fixed-batch", "5", prefix=reaching) as life:
        while not life.over:
            for process in children_of(life.pid):
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{process}/status").read_text().splitlines()
                    found = {line.split(":")[0]: line.split()[1:] for line in lines}
                    seen.add((*found["Uid"], *found["Gid"], *found["Groups"], found["CapEff"][0], found["CapPrm"][0]))
        assert life.wait() == ExitCode.QUARANTINED, life.said
    none = "0" * 16
    assert {each for each in seen if each[0] != "0"} == {(*[str(ALICE)] * 8, none, none)}
    assert len(seen) > 0


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.long
def test_a_link_of_roots_on_the_way_is_followed_and_one_of_a_user_is_not(
    alice: Path, bobs: Path, ground: Path, reaching: list[str]
) -> None:
    """People have their memory on an SD card; and where a user's link leads, that user may say anew at any time."""
    (ground / "card").symlink_to(alice.parent)
    done = nimad(ground, "migrate", "--source", ground / "card/graph.sqlite", prefix=reaching)
    assert done.code == ExitCode.QUARANTINED, done.err
    (bobs / "memory").symlink_to(alice.parent)
    os.lchown(bobs / "memory", BOB, BOB)
    for command in ("migrate", "status", "verify", "doctor"):
        done = nimad(ground, command, "--source", bobs / "memory/graph.sqlite", prefix=reaching)
        assert done.code == ExitCode.NOT_ALLOWED, done.out
        assert f"{bobs}/memory" in done.error
        assert "is a symbolic link that root does not follow" in done.error


@pytest.mark.long
def test_a_backup_keeps_its_owner(alice: Path, reaching: list[str]) -> None:
    target = target_of(alice)
    target.write_bytes(b"made by root")
    target.chmod(0o644)
    done = nimad(alice.parent, "migrate", "--source", alice, "--replace", prefix=reaching)
    assert done.code == ExitCode.QUARANTINED, done.err
    (backup,) = alice.parent.glob("graph.ladybug.backup-*")
    assert (owner(backup), owner(target)) == (ROOT, ALICE)


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_a_program_of_roots_keeps_its_identity_and_is_refused(alice: Path) -> None:
    with pytest.raises(NotAllowedError, match=rf"{alice} belongs to {ALICE}.*nimad.become\('{ALICE}'\) first"):
        migrate(alice)
    assert os.geteuid() == ROOT
    assert names_in(alice.parent) == {"graph.sqlite"}


def test_what_root_left_half_done_is_not_published_under_its_name(alice: Path, reaching: list[str]) -> None:
    staging = staging_of(alice)
    staging.write_bytes(b"of root's")
    done = nimad(alice.parent, "migrate", "--source", alice, prefix=reaching)
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"chown {ALICE} {staging}" in done.error


# Into nobody else's folder


def test_root_is_not_led_into_the_folder_of_a_third(alice: Path, bobs: Path, ground: Path) -> None:
    (ground / "nimad.toml").write_text(f'[target]\npath = "{bobs}/graph.ladybug"\n')
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--target", f"{bobs}/graph.ladybug"], {}),
        (["--config", f"{ground}/nimad.toml"], {}),
        ([], {"NIMA_LADYBUG_DB": f"{bobs}/graph.ladybug"}),
    ]
    for words, more in ways:
        done = nimad(ground, "migrate", "--source", alice, *words, **more)
        assert done.code == ExitCode.NOT_ALLOWED
        assert f"{bobs}/graph.ladybug would stand in a folder of {BOB}" in done.error
        assert f"--user {ALICE}" in done.error
    (ground / "nimad.toml").write_text(f'[log]\nfile = "{bobs}/migration.log"\n')
    done = nimad(ground, "migrate", "--source", alice, "--config", f"{ground}/nimad.toml")
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"{bobs}/migration.log would stand" in done.error
    assert names_in(bobs) == set()
    assert names_in(alice.parent) == {"graph.sqlite"}


def test_a_memory_of_roots_is_not_unpacked_in_a_users_folder(bobs: Path) -> None:
    source = make_memory(bobs / "graph.sqlite", nodes=[node(1)])
    with pytest.raises(NotAllowedError, match=f"and its folder to {BOB}; give both to one of them with .*--user {BOB}"):
        migrate(source)
    assert names_in(bobs) == {"graph.sqlite"}


@pytest.mark.parametrize("suffix", [".migrating", ".migrating.wal"])
def test_a_link_that_is_set_after_all_checks_leads_root_nowhere(
    alice: Path, ground: Path, suffix: str, reaching: list[str]
) -> None:
    """Between a check and the engine's opening there is always time; so it is the kernel that has to say no."""
    precious = ground / "precious"
    precious.write_bytes(b"")
    precious.chmod(0o600)
    with Life(alice, "--fixed-batch", "5", prefix=reaching) as life:
        life.wait_for("Batch 1/")
        beside(target_of(alice), suffix).unlink(missing_ok=True)
        beside(target_of(alice), suffix).symlink_to(precious)
        time.sleep(1)
    assert precious.read_bytes() == b""
    assert owner(precious) == ROOT


@pytest.mark.parametrize("suffix", [".state.json", ".migrating.ledger"])
def test_a_strangers_file_at_a_name_of_ours_is_not_believed(alice: Path, suffix: str, reaching: list[str]) -> None:
    path = beside(target_of(alice), suffix)
    path.write_bytes(b"{}")
    given(BOB, path)
    done = nimad(alice.parent, "migrate", "--source", alice, prefix=reaching)
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"{path} belongs to {BOB}, and the memory to {ALICE}" in done.error
    assert path.read_bytes() == b"{}"


# Links at our names


def test_a_link_at_any_name_of_ours_is_refused(alice: Path) -> None:
    files, log = Files(target_of(alice)), alice.with_name("migration.log")
    precious = alice.with_name("precious")
    for path in (*files.written(), *files.replaced(), *files.made_anew(), log):
        path.symlink_to(precious)
        with pytest.raises(NotAllowedError, match="is a symbolic link"):
            check_names(files, alice, log)
        path.unlink()
    check_names(files, alice, log)


def test_a_run_writes_nothing_when_it_finds_a_link(alice: Path, reaching: list[str]) -> None:
    precious = alice.with_name("precious")
    precious.write_bytes(b"precious")
    for name in ("graph.ladybug.migrating.trial", "graph.ladybug.migrating.salvaged", "migration.log"):
        link = alice.with_name(name)
        link.symlink_to(precious)
        done = nimad(alice.parent, "migrate", "--source", alice, prefix=reaching)
        assert done.code == ExitCode.NOT_ALLOWED
        assert f"{link} is a symbolic link" in done.error
        assert precious.read_bytes() == b"precious"
        assert names_in(alice.parent) == {"graph.sqlite", "precious", name}
        link.unlink()


def test_a_second_name_of_a_file_is_not_written_to(alice: Path, reaching: list[str]) -> None:
    precious = alice.with_name("precious")
    precious.write_bytes(b"precious")
    for path in (beside(target_of(alice), ".migrating.ledger"), alice.with_name("migration.log")):
        os.link(precious, path)
        done = nimad(alice.parent, "migrate", "--source", alice, prefix=reaching)
        assert done.code == ExitCode.NOT_ALLOWED
        assert f"{path} is another file's second name (a hard link)" in done.error
        path.unlink()
    state = beside(target_of(alice), ".state.json")
    os.link(precious, f"{state}.tmp")
    replace_text(state, "new")
    assert (state.read_bytes(), precious.read_bytes()) == (b"new", b"precious")


def test_a_pipe_at_a_name_of_ours_does_not_hold_a_run_up(alice: Path, reaching: list[str]) -> None:
    os.mkfifo(beside(target_of(alice), ".state.json"))
    done = nimad(alice.parent, "migrate", "--source", alice, prefix=reaching)
    assert done.code == ExitCode.CANNOT_WRITE
    assert "is no plain file" in done.error


# The agent's interpreter, which anybody may have written


@pytest.fixture
def reader(make_environment: MakeEnvironment, ground: Path) -> Environment:
    """An agent's environment that notes who runs it."""
    made = make_environment(OLDEST, at=ground / "agent", own=True)
    noted = ground / "noted"
    noted.touch()
    noted.chmod(0o666)
    made.at_start(f"import os\nwith open({str(noted)!r}, 'a') as file: print(*os.getresuid(), file=file)\n")
    return made


def test_her_interpreter_runs_as_her_and_never_as_root(
    alice: Path, ground: Path, reader: Environment, reaching: list[str]
) -> None:
    """Both when it is asked and when it writes, because nothing newer may."""
    for path in (reader.folder, *reader.folder.rglob("*")):
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
    done = nimad(ground, "migrate", "--source", alice, "--reader-python", reader.python, prefix=reaching)
    assert done.code == ExitCode.QUARANTINED, done.err
    assert f"Writing with real_ladybug 0.15.3 of {reader.python}" in done.out
    assert "The reader opens it and counts 60 nodes" in done.out
    runs = (ground / "noted").read_text().splitlines()
    assert set(runs) == {f"{ALICE} {ALICE} {ALICE}"}
    assert len(runs) > 3, "the workers' are among them"
    assert owner(target_of(alice)) == ALICE


@pytest.mark.sampled
@pytest.mark.parametrize("whose", ["folder", "folder open to all", "program", "program open to all", "link's target"])
def test_for_a_memory_of_roots_nobody_elses_interpreter_is_run(
    ground: Path, bobs: Path, reader: Environment, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ground / "home"
    place = home / ".nima/.venv/bin/python"
    place.parent.mkdir(parents=True)
    program = bobs / "python" if whose == "link's target" else place
    program.write_text(f'#!/bin/sh\nexec {reader.python} "$@"\n')
    program.chmod(0o777 if whose == "program open to all" else 0o755)
    if whose == "link's target":
        place.symlink_to(program)
    elif whose == "program":
        given(BOB, place)
    elif whose == "folder":
        given(BOB, place.parent)
    elif whose == "folder open to all":
        place.parent.chmod(0o777)
    monkeypatch.setenv("HOME", str(home))
    source = make_memory(folder_of(ROOT, ground / "roots") / "graph.sqlite", nodes=[node(1)])
    migrate(source, dry_run=True)
    with pytest.raises(UsageError, match=f"{place} is not root's alone, and root does not run it; add --user NAME"):
        migrate(source, dry_run=True, reader_python=place)
    assert (ground / "noted").read_text() == ""


# Root becomes the user


def test_with_user_everything_is_hers_and_home_too(alice: Path, ground: Path, reaching: list[str]) -> None:
    """As she would run it herself: from her home, although root stands in a folder that she cannot enter."""
    memory = alice.parent / ".nima/memory"
    memory.mkdir(parents=True)
    alice.rename(memory / "graph.sqlite")
    given(ALICE, memory)
    (ground / "roots").mkdir(mode=0o700)
    with Looks(memory) as looks:
        done = as_known_user(ground / "roots", alice.parent, reaching, "migrate", "--user", "alice")
    assert done.code == ExitCode.QUARANTINED, done.err
    beside = (f"ladybug.lbug{suffix}" for suffix in WHILE_IT_RUNS)
    assert_hers_alone(looks, "ladybug.lbug", "graph.ladybug", "migration.log", *beside)
    assert names_in(ground / "roots") == set()


def as_known_user(folder: Path, home: Path, prefix: Sequence[str], *words: str) -> Ran:
    """Run the command where the system knows a user alice, which tests do not add to a machine."""
    program = (
        "import os, pwd, sys\n"
        f"alice = pwd.struct_passwd(('alice', 'x', {ALICE}, {ALICE}, '', {str(home)!r}, '/bin/sh'))\n"
        "pwd.getpwnam, pwd.getpwuid = {'alice': alice}.__getitem__, {alice.pw_uid: alice}.__getitem__\n"
        "from nimad.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program, *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(folder, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_with_user_a_target_elsewhere_is_the_systems_to_refuse(
    alice: Path, bobs: Path, ground: Path, reaching: list[str]
) -> None:
    words = ("migrate", "--user", str(ALICE), "--source", alice, "--target", bobs / "graph.ladybug")
    done = nimad(ground, *words, prefix=reaching)
    assert done.code == ExitCode.CANNOT_WRITE
    assert f"{bobs} cannot be written to by this user" in done.error
    assert names_in(bobs) == set()


@pytest.mark.long
def test_with_user_a_file_that_only_root_may_read_is_not_read(alice: Path, ground: Path, reaching: list[str]) -> None:
    (ground / "nimad.toml").write_text("[batch]\nsize = 0\n")
    (ground / "nimad.toml").chmod(0o600)
    words = ("migrate", "--source", alice, "--config", ground / "nimad.toml")
    assert nimad(ground, *words).code == ExitCode.CONFIGURATION, "root reads it"
    done = nimad(ground, *words, "--user", str(ALICE), prefix=reaching)
    assert done.code == ExitCode.NOT_ALLOWED
    assert "nimad.toml: not allowed to read it" in done.error
    given(BOB, alice)
    alice.chmod(0o600)
    done = nimad(ground, "migrate", "--source", alice, "--user", str(ALICE), prefix=reaching)
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"{alice} may not be read by this user" in done.error


@pytest.mark.long
def test_a_target_that_she_may_not_read_is_left_to_whoever_may(alice: Path, ground: Path, reaching: list[str]) -> None:
    """Nothing is wrong with it, so that nobody is told to put it out of the way, or to name another."""
    assert nimad(ground, "migrate", "--source", alice, prefix=reaching).code == ExitCode.QUARANTINED
    target = given(BOB, target_of(alice))
    hers = [*reaching, "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    before = names_in(alice.parent)
    for words in (("migrate", "--source", alice), ("search", "--target", target, "memory")):
        done = nimad(ground, *words, prefix=hers)
        assert done.code == ExitCode.NOT_ALLOWED, done.err
        assert f"{target} may not be opened by this user" in done.error
        assert f"run it as {BOB}" in done.error
        assert "--replace" not in done.error
    assert names_in(alice.parent) == before
    dry = nimad(ground, "migrate", "--source", alice, "--dry-run", prefix=hers)
    assert f"A real run would not begin: {target} may not be opened by this user" in dry.out
    alice.parent.chmod(0o700)
    given(BOB, alice.parent)
    done = nimad(ground, "search", "--target", target, "memory", prefix=hers)
    assert done.code == ExitCode.NOT_ALLOWED, done.err
    assert "run it as its owner" in done.error


def test_rights_that_were_given_up_do_not_come_back(reaching: list[str]) -> None:
    program = f"""
import os
from nimad.host.rights import become
os.environ["HOME"] = "/root"
become("{ALICE}")
become("{ALICE}")  # as whom it runs already
for regain in (os.setuid, os.seteuid, os.setgid, os.setegid, lambda zero: os.setgroups([zero])):
    try:
        regain(0)
    except PermissionError:
        print("refused")
print(*os.getresuid(), *os.getresgid(), os.getgroups(), os.environ["HOME"], os.environ["USER"])
print(*(line for line in open("/proc/self/status") if line.startswith(("CapPrm", "CapEff", "NoNewPrivs"))))
"""
    words = [*reaching, sys.executable, "-c", program]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout.splitlines()
    assert said[:5] == ["refused"] * 5
    assert said[5] == " ".join([str(ALICE)] * 6 + ["[]", "/", str(ALICE)])
    assert [line.split()[1] for line in said[6:9]] == ["0" * 16, "0" * 16, "1"]


def test_rights_that_would_outlast_it_are_refused(alice: Path, ground: Path, reaching: list[str]) -> None:
    """A parent can have the kernel leave root's powers to whoever root becomes."""
    prefix = [*reaching, "setpriv", "--securebits=+no_setuid_fixup"]
    done = nimad(ground, "migrate", "--user", str(ALICE), "--source", alice, prefix=prefix)
    assert done.code == ExitCode.NOT_ALLOWED
    assert "its rights could be regained" in done.error
    assert names_in(alice.parent) == {"graph.sqlite"}


@pytest.mark.long
def test_only_root_becomes_somebody_else(alice: Path, ground: Path, reaching: list[str]) -> None:
    as_her = [*reaching, "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    done = nimad(ground, "migrate", "--user", str(BOB), "--source", alice, prefix=as_her)
    assert done.code == ExitCode.NOT_ALLOWED
    assert f"only root can run as {BOB}; put sudo before" in done.error
    done = nimad(ground, "migrate", "--dry-run", "--user", str(ALICE), "--source", alice, prefix=as_her)
    assert done.code == ExitCode.COMPLETE, done.err


@pytest.mark.parametrize("user", ["nobody-of-that-name", "", "-5", "4294967295"])
def test_an_unknown_user_is_a_usage_error(alice: Path, ground: Path, user: str) -> None:
    done = nimad(ground, "migrate", f"--user={user}", "--source", alice)
    assert done.code == ExitCode.USAGE
    assert f"--user: there is no user {user!r}" in done.error


def test_a_program_that_she_cannot_reach_is_named(alice: Path, ground: Path) -> None:
    closed = ground / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(sys.executable)
    program = f"import sys; sys.executable = {str(closed / 'python')!r}; from nimad.cli import main; main()"
    words = [sys.executable, "-c", program, "migrate", "--user", str(ALICE), "--source", str(alice)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == ExitCode.NOT_ALLOWED
    assert f"{ALICE} cannot reach {closed}/python" in done.stderr
    assert "/opt/nimad" in done.stderr
