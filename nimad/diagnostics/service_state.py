"""What systemd reports about the service, and what keeps it from working."""

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nimad.config import Settings, load
from nimad.errors import NimadError
from nimad.host import systemctl
from nimad.host.folders import name_of
from nimad.service import disks
from nimad.service.setup import NAME

#: Seconds that systemd may take for an answer.
_ANSWER_S = 5.0
_WANTED: Final = (
    "Id,LoadState,ActiveState,SubState,Result,StatusText,UnitFileState,NeedDaemonReload,LoadError,"
    "User,DynamicUser,Environment,BindsTo,ExecMainStartTimestampMonotonic"
)


@dataclass(frozen=True)
class Trouble:
    """What keeps a service from its work, and the command that fixes it, where one does."""

    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Unit:
    """One service: what `systemctl show` says of it, and the command that changes it."""

    facts: Mapping[str, str]
    systemctl: str = "sudo systemctl"

    @property
    def name(self) -> str:
        return self.facts.get("Id", NAME).removesuffix(".service")

    @property
    def active(self) -> str:
        return self.facts.get("ActiveState", "")

    @property
    def enabled(self) -> bool:
        return self.facts.get("UnitFileState", "") in ("enabled", "enabled-runtime")

    @property
    def environment(self) -> Mapping[str, str]:
        """What the unit says; a value that systemd shows in a way of its own is left out."""
        try:
            words = shlex.split(self.facts.get("Environment", ""))
        except ValueError:
            return {}
        return dict(word.split("=", 1) for word in words if "=" in word)

    def trouble(self, *, ends: bool = False) -> Trouble | None:
        """Why it does not do what it was enabled for. `ends`: it is to end once the migration is complete."""
        if self.enabled or self.active == "failed":
            if (user := self._missing_user()) is not None:
                return Trouble(f"{self.name} runs for {user}, and there is no such user any more", self._another_user())
            if self.active != "active" and (waits := self.waits()):
                return Trouble(f"{self.name} does not run: {waits.text}", waits.remedy)
        if not self.enabled or self.active != "inactive":
            return None
        has_run = self.facts.get("ExecMainStartTimestampMonotonic", "0") != "0"
        if ends and has_run and self.facts.get("Result") == "success":
            return None
        return Trouble(f"{self.name} is enabled and does not run", f"{self.systemctl} start {self.name}")

    def waits(self) -> Trouble | None:
        """The disks that are away, and what mounts them, where systemd knows how; else they are to be put in."""
        asked, places = self._settings(), disks.named(self.environment)
        away = disks.away(places) if asked is None else disks.lacking(places, asked.source)
        if not away:
            return None
        bound, listed = self.facts.get("BindsTo", "").split(), disks.of_fstab()
        known = [unit for point in away if (unit := disks.unit_of(point)) in bound or point in listed]
        remedy = f"sudo systemctl start {shlex.join(known)}" if known else ""
        return Trouble(f"no disk is mounted at {' and '.join(away)}", remedy)

    def _missing_user(self) -> str | None:
        user = self.facts.get("User", "")
        return None if not user or self.facts.get("DynamicUser") == "yes" or _account(user) else user

    def _another_user(self) -> str:
        if self.name != NAME:
            return f"sudo systemctl disable --now {self.name}"
        try:
            owner = name_of(Path(self.environment.get("HOME", "/")).stat().st_uid)
        except OSError:
            owner = ""
        return f"sudo nimad setup --user {owner if owner and _account(owner) and owner != 'root' else 'NEW'}"

    def is_about(self, source: Path) -> bool:
        """Whether it is this memory that it migrates."""
        asked = self._settings()
        return asked is not None and os.path.realpath(asked.source) == os.path.realpath(source)

    def _settings(self) -> Settings | None:
        """What it migrates with; None where nobody can tell."""
        account, environment = _account(self.facts.get("User", "")), self.environment
        home = environment.get("HOME") or (account.pw_dir if account else "")
        try:
            return load({}, {**environment, "HOME": home}) if home else None
        except (NimadError, OSError):
            return None


def is_run_by_systemd() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def units() -> Iterator[Unit]:
    """The system's own and those of users in it. The first one is there whatever systemd knows of it."""
    yield Unit(_show())
    words = ("list-units", "--all", "--plain", "--no-legend", f"{NAME}@*.service")
    for line in systemctl.said(*words, timeout_s=_ANSWER_S).splitlines():
        if line.split():
            yield Unit(_show(unit=line.split()[0].removesuffix(".service")))


def of_user() -> Unit:
    """The one in the systemd of the user who asks."""
    return Unit(_show("--user"), "systemctl --user")


def trouble_of(settings: Settings) -> Trouble | None:
    """What keeps the service of this memory from its work."""
    if not is_run_by_systemd():
        return None
    try:
        found = next((unit for unit in units() if unit.enabled and unit.is_about(settings.source)), None)
    except (OSError, subprocess.SubprocessError):
        return None
    return None if found is None else found.trouble(ends=settings.after == "exit") or found.waits()


def _account(name: str) -> "pwd.struct_passwd | None":
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        return None


def _show(*words: str, unit: str = NAME) -> Mapping[str, str]:
    return systemctl.shown(*words, "show", f"--property={_WANTED}", f"{unit}.service", timeout_s=_ANSWER_S)
