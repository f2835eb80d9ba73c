"""Whose files they are: for the memory's owner alone, at every moment, and root is led into nobody else's folder.

Users are real numbers, which need no entry anywhere: ALICE owns the memory, BOB is somebody else.
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from environments import OLDEST, Environment, MakeEnvironment
from support import make_memory, migrate, node
from test_console import TIMEOUT_S, Ran, environment, nimad
from torture import LOOK_S, Life, beside, interrupted, staging_of, target_of

import nimad as package
from nimad.errors import CannotWriteError, ExitCode, NimadError, NotAllowedError, UsageError
from nimad.migration.events import BatchLoaded, Event, Published, Started
from nimad.migration.files import Files, check_names, replace_text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

ROOT, ALICE, BOB = 0, 61_001, 61_002
#: What a run writes while it goes on. The rest comes and goes with the engine's checkpoints.
WHILE_IT_RUNS = {
    ".migrating",
    ".migrating.ledger",
    ".migrating.quarantine.jsonl",
    ".state.json",
    ".runs.jsonl",
    ".lock",
}
#: Fails unless a user can start a worker: the interpreter, its library, this program and the engine.
REACH = "import os, sys, nimad.cli, ladybug; sys.exit(not os.access(sys.executable, os.X_OK))"


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder of root's that everybody may enter; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="nimad-rights-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def alice(ground: Path) -> Path:
    """Her memory, in a folder of hers; one of its rows is for the quarantine."""
    folder = folder_of(ALICE, ground / "alice")
    nodes = [node(1, timestamp="noon"), *(node(number) for number in range(2, 61))]
    return given(ALICE, make_memory(folder / "graph.sqlite", nodes=nodes))


def folder_of(uid: int, path: Path) -> Path:
    path.mkdir(mode=0o755)
    return given(uid, path)


def given(uid: int, path: Path) -> Path:
    os.chown(path, uid, uid)
    return path


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
    wrong = {name: seen for name, seen in looks.seen.items() if seen != {(ALICE, ALICE, "-rw-------")}}
    assert wrong == {}


# Root works for the owner of the memory


def test_what_root_makes_belongs_to_the_memorys_owner_at_every_moment(alice: Path) -> None:
    names = {f"graph.ladybug{suffix}" for suffix in WHILE_IT_RUNS}
    with Looks(alice.parent) as looks, Life(alice, "--fixed-batch", "15") as life:
        life.wait_for("Batch 2/")
        life.kill()
    assert_hers_alone(looks, *names, "migration.log")
    with Looks(alice.parent) as looks, Life(alice, "--fixed-batch", "15") as life:
        assert life.wait() == ExitCode.QUARANTINED, life.said
    assert_hers_alone(looks, *names, "graph.ladybug", "graph.ladybug.quarantine.jsonl", "migration.log")
    assert (alice.parent / "graph.ladybug.migrating.wal").name in looks.seen, "the engine's own files were looked at"


def test_a_worker_that_works_for_her_still_ends_with_its_parent(alice: Path) -> None:
    """The kernel forgets that order whenever a process changes its rights."""
    program = f"""
import ctypes, pathlib
from nimad import rights
libc, number = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(1, 9, 0, 0, 0)
rights.work_for(pathlib.Path({str(alice)!r}))
libc.prctl(2, ctypes.byref(number), 0, 0, 0)
print(number.value)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"9\n"


def test_a_target_in_a_folder_of_roots_is_the_owners_too(alice: Path, ground: Path) -> None:
    """And a folder on the way may be a link: people have their memory on an SD card."""
    shared = folder_of(ROOT, ground / "shared")
    (ground / "card").symlink_to(alice.parent)
    with Looks(shared) as looks:
        target = migrate(ground / "card/graph.sqlite", target=shared / "graph.ladybug").target
    assert target.parent == shared
    assert_hers_alone(looks, "graph.ladybug", "graph.ladybug.lock")


def test_a_backup_keeps_its_owner(alice: Path) -> None:
    target = target_of(alice)
    target.write_bytes(b"made by root")
    backup = migrate(alice, replace=True).only(Published).backup
    assert backup is not None
    assert (owner(Path(backup)), owner(target)) == (ROOT, ALICE)


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_a_listener_and_the_time_after_have_the_callers_own_rights(alice: Path, ground: Path) -> None:
    private = ground / "private"
    private.mkdir(mode=0o700)
    package.migrate(package.Settings(source=alice), lambda event: (private / type(event).__name__).touch())
    (private / "after").touch()
    assert {owner(path) for path in private.iterdir()} == {ROOT}


def test_what_root_left_half_done_is_not_published_under_its_name(alice: Path) -> None:
    interrupted(alice, BatchLoaded, fixed_batch=True, batch_size=20)
    staging = given(ROOT, staging_of(alice))
    with pytest.raises(NotAllowedError, match=f"chown {ALICE} {staging}"):
        migrate(alice)
    given(ALICE, staging)
    check_names(Files(target_of(alice)), alice, alice.with_name("migration.log"))


# Into nobody else's folder


@pytest.fixture
def bobs(ground: Path) -> Path:
    return folder_of(BOB, ground / "bob")


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
    with pytest.raises(NotAllowedError, match=f"--user {BOB}"):
        migrate(source)
    assert names_in(bobs) == {"graph.sqlite"}


@pytest.mark.parametrize("suffix", [".migrating", ".migrating.wal"])
def test_a_link_that_she_sets_after_all_checks_leads_root_nowhere(alice: Path, ground: Path, suffix: str) -> None:
    """Between a check and the engine's opening there is always time; so it is the kernel that has to say no."""
    precious = ground / "precious"
    precious.write_bytes(b"")
    precious.chmod(0o600)
    stop = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Started):
            beside(target_of(alice), suffix).unlink(missing_ok=True)
            beside(target_of(alice), suffix).symlink_to(precious)
            threading.Timer(1, stop.set).start()

    with suppress(NimadError):  # whether it can go on without is not the question here
        package.migrate(package.Settings(source=alice), listen, stop)
    assert precious.read_bytes() == b""
    assert owner(precious) == ROOT


@pytest.mark.parametrize("suffix", [".state.json", ".migrating.ledger"])
def test_a_strangers_file_at_a_name_of_ours_is_not_believed(alice: Path, suffix: str) -> None:
    path = beside(target_of(alice), suffix)
    path.write_bytes(b"{}")
    given(BOB, path)
    with pytest.raises(NotAllowedError, match=f"{path} belongs to {BOB}, and the memory to {ALICE}"):
        migrate(alice)
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


def test_a_run_writes_nothing_when_it_finds_a_link(alice: Path) -> None:
    precious = alice.with_name("precious")
    precious.write_bytes(b"precious")
    for name in ("graph.ladybug.migrating.trial", "graph.ladybug.migrating.salvaged", "migration.log"):
        link = alice.with_name(name)
        link.symlink_to(precious)
        done = nimad(alice.parent, "migrate", "--source", alice)
        assert done.code == ExitCode.NOT_ALLOWED
        assert f"{link} is a symbolic link" in done.error
        assert precious.read_bytes() == b"precious"
        assert names_in(alice.parent) == {"graph.sqlite", "precious", name}
        link.unlink()


def test_a_second_name_of_a_file_is_not_written_to(alice: Path) -> None:
    precious = alice.with_name("precious")
    precious.write_bytes(b"precious")
    for path in (beside(target_of(alice), ".migrating.ledger"), alice.with_name("migration.log")):
        os.link(precious, path)
        with pytest.raises(NotAllowedError, match=rf"{path} is another file's second name \(a hard link\)"):
            migrate(alice)
        path.unlink()
    state = beside(target_of(alice), ".state.json")
    os.link(precious, f"{state}.tmp")
    replace_text(state, "new")
    assert (state.read_bytes(), precious.read_bytes()) == (b"new", b"precious")


def test_a_pipe_at_a_name_of_ours_does_not_hold_a_run_up(alice: Path) -> None:
    os.mkfifo(beside(target_of(alice), ".state.json"))
    with pytest.raises(CannotWriteError, match="is no plain file"):
        migrate(alice)


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
    assert "The reader opens it and counts 59 nodes" in done.out
    runs = (ground / "noted").read_text().splitlines()
    assert set(runs) == {f"{ALICE} {ALICE} {ALICE}"}
    assert len(runs) > 3, "the workers' are among them"
    assert owner(target_of(alice)) == ALICE


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


@pytest.fixture(scope="module")
def reaching(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words before a command that let other users reach the interpreter, wherever root keeps it.

    In a folder such as /root it is closed to them: then the command gets a view of the disk of its own, in which that
    folder holds nothing but the interpreter and is open.
    """
    if not as_alice(sys.executable, "-c", REACH):
        return []
    needed = {Path(os.path.realpath(each)) for each in (sys.base_prefix, sys.prefix, Path(package.__file__).parents[1])}
    mounts = []
    for number, folder in enumerate(sorted({closed for each in needed if (closed := first_closed(each))})):
        aside = tmp_path_factory.mktemp(f"aside{number}")
        mounts += [f"mount --rbind {folder} {aside}", f"mount -t tmpfs -o mode=755 none {folder}"]
        for each in sorted(path for path in needed if path.is_relative_to(folder)):
            mounts += [f"mkdir -p {each}", f"mount --bind {aside / each.relative_to(folder)} {each}"]
    prefix = ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
    if why := as_alice(sys.executable, "-c", REACH, prefix=prefix):
        pytest.skip(f"other users cannot reach {sys.executable}, and it cannot be opened to them here: {why}")
    return prefix


def as_alice(*command: str, prefix: Sequence[str] = ()) -> str:
    """Run a command as her; what it said when it failed."""
    words = [*prefix, "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", *command]
    done = subprocess.run(words, capture_output=True, cwd="/", check=False)
    return "" if done.returncode == 0 else done.stderr.decode() or f"exit {done.returncode}"


def first_closed(path: Path) -> Path | None:
    folders = [*reversed(path.parents), path]
    return next((each for each in folders if not each.stat().st_mode & stat.S_IXOTH), None)


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
    assert_hers_alone(looks, "graph.ladybug", "migration.log", *(f"graph.ladybug{suffix}" for suffix in WHILE_IT_RUNS))
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


def test_a_target_that_she_may_not_read_is_left_to_whoever_may(alice: Path, ground: Path, reaching: list[str]) -> None:
    """Nothing is wrong with it, so that nobody is told to put it out of the way, or to name another."""
    target = given(BOB, migrate(alice).target)
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
from nimad.rights import become
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
