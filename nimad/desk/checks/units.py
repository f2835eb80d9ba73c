"""The service: what systemd says of it, the system's own and that of the user."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from nimad.desk.checks.finding import Examined, Finding, ok, problem, warning
from nimad.service.setup import NAME

#: Seconds that systemd may take for an answer.
_ANSWER_S = 5.0
_WANTED: Final = "Id,LoadState,ActiveState,SubState,Result,StatusText,UnitFileState,NeedDaemonReload,LoadError"
_CHECK: Final = "service"


def units(_: Examined) -> Iterator[Finding]:
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        yield ok(_CHECK, "this machine is not run by systemd")
        return
    if not (own := _show()):
        yield warning(_CHECK, "systemd does not answer", "systemctl is-system-running")
        return
    for unit in [own, *_instances()]:
        yield _judged(unit, "sudo systemctl", "journalctl")
    if os.geteuid() != 0 and (unit := _show("--user")).get("LoadState") == "loaded":
        yield _judged(unit, "systemctl --user", "journalctl --user")


def _judged(unit: Mapping[str, str], systemctl: str, journalctl: str) -> Finding:
    name, active = unit.get("Id", NAME).removesuffix(".service"), unit.get("ActiveState", "")
    says = f": {unit['StatusText']}" if unit.get("StatusText") else ""
    log = f"{journalctl} -u {name} -n 20"
    if unit.get("NeedDaemonReload") == "yes":
        return warning(_CHECK, f"{name} was changed on the disk since systemd read it", f"{systemctl} daemon-reload")
    if unit.get("LoadState") == "not-found":
        return ok(_CHECK, f"{name} is not installed as a service")
    if unit.get("LoadState") != "loaded":
        return problem(_CHECK, f"{name} cannot be loaded ({unit.get('LoadState')})", f"systemctl status {name}")
    if active == "failed":
        return problem(_CHECK, f"{name} has failed ({unit.get('Result')}){says}", f"{systemctl} restart {name}")
    if unit.get("SubState") == "auto-restart":
        return warning(_CHECK, f"{name} ended, and is about to be started again{says}", log)
    enabled = unit.get("UnitFileState") or "unknown"
    return ok(_CHECK, f"{name} is {active} ({enabled}){says}")


def _show(*words: str, unit: str = NAME) -> Mapping[str, str]:
    said = _ask([*words, "show", f"--property={_WANTED}", f"{unit}.service"])
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def _instances() -> Iterator[Mapping[str, str]]:
    said = _ask(["list-units", "--all", "--plain", "--no-legend", f"{NAME}@*.service"])
    for line in said.splitlines():
        if line.split():
            yield _show(unit=line.split()[0].removesuffix(".service"))


def _ask(words: Sequence[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        ["systemctl", *words], check=False, capture_output=True, text=True, timeout=_ANSWER_S, env=environment
    )
    return done.stdout
