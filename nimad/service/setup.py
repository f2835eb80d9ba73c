"""Set-up of the service for a user: the units of systemd and whose memory they migrate.

The unit by itself may touch nothing. A drop-in beside it names the user and opens her home, read-only, and the folder
of her memory. Where no package has brought the units, they come from ours, changed to start this very program.
"""

import grp
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import nimad
from nimad.config import Settings, load, toml_file
from nimad.errors import CannotWriteError, ConfigurationError, NotAllowedError, UsageError
from nimad.host.as_user import as_user
from nimad.host.folders import name_of
from nimad.host.rights import UserAccount
from nimad.printable import is_one_line, is_utf_8
from nimad.service import agent_scripts, disks
from nimad.service.agent_scripts import PluginFolder
from nimad.service.disks import Disk

NAME: Final = "nima-migrate"
_UNIT: Final = f"{NAME}.service"
#: How a file of ours begins: another one is neither replaced nor taken away.
_MARK: Final = "# Written by «nimad setup»; «nimad setup --undo» takes it away.\n"
_PACKAGED: Final = ("usr/lib/systemd/system", "lib/systemd/system")
_DROP_IN: Final = Path(f"etc/systemd/system/{_UNIT}.d/10-setup.conf")
#: In our package -> where an administrator's units lie.
_UNITS: Final = {
    _UNIT: Path("etc/systemd/system", _UNIT),
    f"{NAME}@.service": Path(f"etc/systemd/system/{NAME}@.service"),
    f"user/{_UNIT}": Path("etc/systemd/user", _UNIT),
}
#: What the units start as they are.
_PACKAGED_PROGRAM: Final = "/usr/bin/nimad"
#: Folders that the service finds empty, but for what is opened to it (ProtectHome=tmpfs, PrivateTmp=yes).
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - named to be avoided
#: In a home, what no migration needs, and the service does not see: keys, settings of other programs, histories,
#: browsers, what agents keep of accounts and sessions, documents.
NOT_NEEDED: Final = (
    *(".ssh", ".gnupg", ".pki", ".password-store", ".local/share/keyrings", ".netrc", ".git-credentials"),
    *(".pgpass", ".my.cnf", ".npmrc", ".pypirc"),
    *(".aws", ".azure", ".kube", ".docker", ".cargo", ".config"),
    *(".bash_history", ".zsh_history", ".python_history", ".sqlite_history", ".lesshst", ".viminfo"),
    ".local/state",
    *(".mozilla", ".thunderbird", ".var", "snap"),
    *(".claude", ".codex", ".gemini", ".openclaw/credentials", ".openclaw/agents", ".openclaw/identity"),
    *(".openclaw/devices", ".openclaw/logs", ".openclaw/media"),
    *("Desktop", "Documents", "Downloads", "Music", "Pictures", "Videos"),
)
#: The first systemd whose delay between restarts can grow.
_GROWING_DELAY: Final = 254
_SYSTEM: Final = Path("/")


@dataclass(frozen=True)
class WrittenUnits:
    """What a set-up made of the machine: the files that are new or changed, and those that are gone.

    `kept`: where what stood in the place of the agent's scripts is now; `put_back`: what stands there again.
    `scripts`: whether the agent's scripts are ours. `away_at_boot`: by the place of a disk that systemd does not mount
    by itself, the line of /etc/fstab that has it do so; empty for a mount of a user's own.
    """

    changed: Sequence[Path]
    removed: Sequence[Path]
    running: bool = False
    enabled: bool = False
    kept: Sequence[Path] = ()
    put_back: Sequence[Path] = ()
    scripts: bool = False
    away_at_boot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """Whom the service runs for, and on which files."""

    account: UserAccount
    settings: Settings
    program: Sequence[str]
    source_typed: bool
    scripts: PluginFolder | None  # where the agent's scripts are to be ours
    folders: Sequence[Path]  # that are written to, without symbolic links in their names
    disks: Sequence[Disk]  # that these and the home lie on, besides the system's own

    @property
    def home(self) -> Path:
        return Path(self.account.home)


def set_up(
    account: UserAccount, source: Path | None, program: Sequence[str], root: Path = _SYSTEM, *, drop_ins: bool = True
) -> WrittenUnits:
    """Have the service migrate this user's memory; `program` are the words that start nimad.

    With `drop_ins`, nima-core's scripts of the guide call it too, where its plugin is installed.
    `root` is a folder to be taken for the file system; then no systemd is told. Raises a `NimadError` that says what
    stands against it, and has changed nothing then.
    """
    _check_machine(root)
    if not account.known:
        raise UsageError(f"--user: the system knows no name and no home of user {account.name}; name another")
    scripts = agent_scripts.place_of(account) if drop_ins else None
    settings = _settings(account, source, root)
    folders = [Path(folder) for folder in as_user(account, lambda: _folders(settings))]
    plan = _Plan(account, settings, program, source is not None, scripts, folders, _disks(account, settings, root))
    _check_memory(plan)
    _check_program(plan)
    wanted = _wanted(plan, root)
    before = _existing(root)
    foreign = [path for path in wanted if path.exists() and path not in before]
    if foreign:
        raise CannotWriteError(f"{foreign[0]} was not written by nimad setup; move it away, then run this again")
    try:
        _bring_about(wanted, before)
        if root == _SYSTEM:
            _verify()
        placed = agent_scripts.Changes() if scripts is None else agent_scripts.install(scripts, program)
    except BaseException:
        _bring_about(before, wanted)
        raise
    gone = _take_scripts_back(before, root, unless=scripts)
    _reload(root)
    drop_in = root / _DROP_IN
    _enable_again(root, before.get(drop_in, ""), wanted[drop_in])
    return WrittenUnits(
        [*(path for path, text in wanted.items() if before.get(path) != text), *placed.written],
        [*sorted(before.keys() - wanted.keys()), *gone.removed],
        _says(root, "is-active"),
        _says(root, "is-enabled"),
        placed.kept,
        gone.put_back,
        scripts is not None,
        {str(disk.point): disk.fstab(account.uid, account.gid) for disk in plan.disks if not disk.lasts},
    )


def undo(root: Path = _SYSTEM) -> WrittenUnits:
    """Take away what `set_up` wrote, and nothing else. A service that runs goes on."""
    _check_machine(root)
    enabled, before = _says(root, "is-enabled"), _existing(root)
    gone = _take_scripts_back(before, root)
    _bring_about({}, before)
    with suppress(OSError):  # somebody else's drop-ins are in it, or it was never there
        (root / _DROP_IN).parent.rmdir()
    _reload(root)
    _enable_again(root, before.get(root / _DROP_IN, ""), "")
    return WrittenUnits([], [*sorted(before), *gone.removed], _says(root, "is-active"), enabled, put_back=gone.put_back)


def _take_scripts_back(
    before: Mapping[Path, str], root: Path, unless: PluginFolder | None = None
) -> agent_scripts.Changes:
    """Take the scripts away that an earlier set-up installed, unless they are where they belong."""
    earlier = agent_scripts.recorded(before.get(root / _DROP_IN, ""))
    return agent_scripts.Changes() if earlier is None or earlier == unless else agent_scripts.take_back(earlier)


def _settings(account: UserAccount, source: Path | None, root: Path) -> Settings:
    """What holds for a run of hers: her home, the machine's settings file, none of our environment."""
    config = root / toml_file.DEFAULT_FILE.relative_to(_SYSTEM)
    named = config if root != _SYSTEM and config.exists() else None
    return load({"source": source}, {"HOME": account.home}, named)


# Checks


def _check_machine(root: Path) -> None:
    if root != _SYSTEM:
        return
    if os.geteuid() != 0:
        raise NotAllowedError("only root can set up a service of this machine; put sudo before the command")
    if not Path("/run/systemd/system").is_dir():  # as sd_booted(3) asks
        raise UsageError("this machine is not run by systemd, so it has no services of that kind; use: nimad migrate")


def _folders(settings: Settings) -> list[str]:
    """The folders that are written to; the source's too, because readers of SQLite share a file beside it."""
    files = (settings.source, settings.target, settings.log_file, settings.metrics_file)
    return sorted({os.path.realpath(each.parent) for each in files if each is not None})


def _disks(account: UserAccount, settings: Settings, root: Path) -> list[Disk]:
    """Those under the home and each folder of a file, as they are written and as their links lead."""
    if root != _SYSTEM:
        return []
    _reload(root)  # somebody may just have written a line into /etc/fstab
    files = (settings.source, settings.target, settings.log_file, settings.metrics_file)
    home = Path(account.home)
    written = [home, *(path.parent for path in files if path is not None)]
    leading = as_user(account, lambda: list(map(os.path.realpath, written)))
    return disks.needed([*written, *map(Path, leading)], home)


def _check_memory(plan: _Plan) -> None:
    """Raise unless the service's user may do what the service will; asked as that user."""
    try:
        owner = name_of(plan.settings.source.lstat().st_uid)  # for the message alone
    except OSError:
        owner = "unknown"
    as_user(plan.account, lambda: _check_as_user(plan, owner))


def _check_as_user(plan: _Plan, owner: str) -> None:
    source, name = plan.settings.source, plan.account.name
    try:
        source.stat()
    except PermissionError:
        pass
    except OSError:
        raise UsageError(
            f"{source}: {name} has no memory there; name it with --source FILE, or its owner with --user"
        ) from None
    if not os.access(source, os.R_OK):
        raise NotAllowedError(f"{name} may not read {source}; name its owner with --user, who is {owner}")
    for folder in plan.folders:
        if not folder.is_dir():
            raise CannotWriteError(
                f"there is no folder {folder}; make it, as {name}, with: mkdir -p {shlex.quote(str(folder))}"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise NotAllowedError(f"{name} may not write in {folder}; allow it, or name its owner with --user")
        if _hidden_in_tmp(folder):
            raise UsageError(f"{folder} is emptied at times, and closed to the service; keep the memory elsewhere")
    config = toml_file.DEFAULT_FILE
    if config.exists() and not os.access(config, os.R_OK):
        raise NotAllowedError(f"{name} may not read {config}; allow it with: chmod a+r {config}")


def _check_program(plan: _Plan) -> None:
    """Raise when she cannot run our program: its starter, the interpreter, its library and our own code."""
    for part in _parts(plan):
        in_her_home = part.is_relative_to(plan.home) or part.is_relative_to(plan.home.resolve())
        if not as_user(plan.account, partial(os.access, part, os.R_OK)) or (_is_hidden(part) and not in_her_home):
            raise NotAllowedError(
                f"{plan.account.name}'s service cannot reach {part}, a part of this program; install nimad where every "
                "user may read it, such as /opt/nimad, and run setup from there"
            )


def _parts(plan: _Plan) -> list[Path]:
    """Parts of our program, each also as what it leads to."""
    parts = [Path(plan.program[0]), Path(sys.executable), Path(os.__file__), Path(nimad.__file__)]
    return [each for path in parts for each in (path, path.resolve())]


def _is_hidden(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in HIDDEN)


def _hidden_in_tmp(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in HIDDEN if place.endswith("tmp"))


# Files


def _wanted(plan: _Plan, root: Path) -> dict[Path, str]:
    """Every file of a set-up, with its text."""
    packaged = any((root / place / _UNIT).exists() for place in _PACKAGED)
    texts = {root / _DROP_IN: _MARK + _drop_in(plan, root, with_program=packaged)}
    if not packaged:
        folder = Path(nimad.__file__).parent / "units"
        start = _unit_text([f"ExecStart={_words(plan.program)} run"]).rstrip()
        for name, place in _UNITS.items():
            unit = (folder / name).read_text(encoding="utf-8")
            texts[root / place] = _MARK + unit.replace(f"ExecStart={_PACKAGED_PROGRAM} run", start)
    return texts


def _drop_in(plan: _Plan, root: Path, *, with_program: bool) -> str:
    account = plan.account
    automatic = [disk.point for disk in plan.disks if disk.automatic]
    firm = [folder for folder in plan.folders if not any(folder.is_relative_to(point) for point in automatic)]
    lines = ["[Unit]", *(f"RequiresMountsFor={_word(folder)}" for folder in firm)]
    lines += [line for disk in plan.disks for line in disk.of_unit()]
    lines += ["", "[Service]"]
    lines += ["DynamicUser=no", f"User={account.name}", f"Group={_group(account.gid)}"]
    lines += ["Environment=", f"Environment={_word(f'HOME={account.home}')}"]
    if plan.source_typed:
        lines += [f"Environment={_word(f'NIMA_DB_PATH={plan.settings.source}')}"]
    if plan.disks:
        lines += [f"Environment={_word(f'{disks.VARIABLE}={disks.said(plan.disks)}')}"]
    if with_program and list(plan.program) != [_PACKAGED_PROGRAM]:
        lines += ["ExecStart=", f"ExecStart={_words(plan.program)} run"]
    lines += ["", "# The home, to be read, and the folder of the memory, to be written to; all other homes are empty."]
    lines += ["# «-»: what is not there yet is to be waited for by nimad, in words."]
    lines += ["ProtectHome=tmpfs", f"BindReadOnlyPaths=-{_bind(plan.home)}"]
    lines += [f"InaccessiblePaths=-{_word(plan.home / name)}" for name in _not_needed(plan)]
    lines += dict.fromkeys(_opened(folder, plan) for folder in plan.folders)
    if _systemd_version(root) >= _GROWING_DELAY:
        lines += ["", "# From 5 s on, each restart comes later than the one before.", "RestartSteps=6"]
        lines += ["RestartMaxDelaySec=10min"]
    if wanted := [line for disk in plan.disks for line in disk.of_install()]:
        lines += ["", "[Install]", *wanted]
    if plan.scripts is not None:
        lines += ["", plan.scripts.record()]
    return _unit_text(lines)


def _not_needed(plan: _Plan) -> list[str]:
    """What the service does not see of the home, unless a part of the program or a file of the settings lies in it."""
    asked = plan.settings
    named = (asked.openclaw_file, asked.engine_python, asked.reader_python, asked.vector_extension)
    needed = [*_parts(plan), *plan.folders, *(path for path in named if path is not None)]
    homes = {plan.home, plan.home.resolve()}
    return [name for name in NOT_NEEDED if not any(p.is_relative_to(h / name) for p in needed for h in homes)]


def _unit_text(lines: Sequence[str]) -> str:
    """Lines of a unit. Raises where one of them would be more than one: a name that a user chose could end it."""
    for line in lines:
        if not is_one_line(line) or not is_utf_8(line):
            raise UsageError(
                f"{line!r} has control characters or is no UTF-8, so it cannot stand in a unit; rename that folder"
            )
    return "\n".join(lines) + "\n"


def _opened(folder: Path, plan: _Plan) -> str:
    """The line that lets the service write in a folder, which has no symbolic links in its name.

    On a disk that may be pulled it opens the place of the disk itself. For a folder below, systemd would mount that
    folder over itself, and by that the service would keep the disk after the system has let go of it.
    """
    home = plan.home.resolve()
    points = [disk.point for disk in plan.disks if folder.is_relative_to(disk.point)]
    if points and not home.is_relative_to(max(points)):
        folder = max(points)  # of several, each of which begins the folder's name, the longest
    if folder.is_relative_to(home):
        return f"ReadWritePaths=-{_word(plan.home / folder.relative_to(home))}"
    return f"BindPaths=-{_bind(folder)}" if _is_hidden(folder) else f"ReadWritePaths=-{_word(folder)}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _words(words: Sequence[str]) -> str:
    """A command line for systemd, which would take a `$` for a variable."""
    return " ".join(_word(word.replace("$", "$$")) for word in words)


def _bind(path: Path) -> str:
    """A path for BindPaths=, in which a colon parts the source from the destination."""
    return _word(str(path).replace("\\", "\\\\").replace(":", "\\:"))


def _word(text: object) -> str:
    """One word of a unit file (systemd.syntax(7)), quoted where it has to be."""
    plain = str(text).replace("%", "%%")
    if not set(plain) & set(" \t\"'\\;#"):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _existing(root: Path) -> dict[Path, str]:
    """The files there that a set-up wrote, with their texts."""
    places = [root / place for place in (_DROP_IN, *_UNITS.values())]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in places if path.is_file()}
    return {path: text for path, text in texts.items() if text.startswith(_MARK)}


def _bring_about(wanted: Mapping[Path, str], before: Mapping[Path, str]) -> None:
    for path in before.keys() - wanted.keys():
        with suppress(FileNotFoundError, NotADirectoryError):  # as where its folder could not be made
            path.unlink()
    for path, text in wanted.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")  # not a name that systemd reads
            part.write_text(text, encoding="utf-8")
            part.chmod(0o644)
            part.rename(path)
        except OSError as error:
            raise CannotWriteError(f"{path} cannot be written ({error.strerror}); make that possible") from error


# systemd


def _verify() -> None:
    """Raise when systemd sees a mistake in what was written: nothing is loaded by this."""
    done = _systemd("systemd-analyze", "verify", _UNIT)
    said = [line for line in done.stderr.splitlines() if NAME in line]
    if done.returncode or said:
        what = (said or done.stderr.splitlines() or ["no reason was given"])[0]
        raise ConfigurationError(f"systemd does not accept the unit, so nothing was changed: {what}")


def _reload(root: Path) -> None:
    if root == _SYSTEM and (done := _systemd("systemctl", "daemon-reload")).returncode:
        raise CannotWriteError(f"systemd could not be told ({done.stderr.strip()}); type: systemctl daemon-reload")


def _enable_again(root: Path, before: str, now: str) -> None:
    """Have systemd take over what [Install] says, where the service is enabled and that is new."""
    if _wanted_by(before) != _wanted_by(now) and _says(root, "is-enabled"):
        _systemd("systemctl", "reenable", _UNIT)


def _wanted_by(drop_in: str) -> list[str]:
    return [line for line in drop_in.splitlines() if line.startswith("WantedBy=")]


def _says(root: Path, verb: str) -> bool:
    return root == _SYSTEM and _systemd("systemctl", "--quiet", verb, _UNIT).returncode == 0


def _systemd_version(root: Path) -> int:
    """The machine's, as a whole number; 0 where there is none."""
    words = _systemd("systemctl", "--version").stdout.split() if root == _SYSTEM else []
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _systemd(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise UsageError(f"there is no {command[0]} here; install the package systemd") from None
