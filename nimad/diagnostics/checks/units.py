"""The systemd units of the service, the system's and the user's."""

import os
from collections.abc import Iterator
from typing import Final

from nimad.diagnostics import service_state
from nimad.diagnostics.checks.finding import Examined, Finding, ok, problem, warning
from nimad.diagnostics.service_state import Unit

_CHECK: Final = "service"


def units(examined: Examined) -> Iterator[Finding]:
    if not service_state.is_run_by_systemd():
        yield ok(_CHECK, "this machine is not run by systemd")
        return
    ends = examined.settings.after == "exit"
    own, *instances = service_state.units()
    if not own.facts:
        yield warning(_CHECK, "systemd does not answer", "systemctl is-system-running")
        return
    for unit in [own, *instances]:
        yield _judged(unit, "journalctl", ends=ends)
    if os.geteuid() != 0 and (unit := service_state.of_user()).facts.get("LoadState") == "loaded":
        yield _judged(unit, "journalctl --user", ends=ends)


def _judged(unit: Unit, journalctl: str, *, ends: bool = False) -> Finding:
    name, facts = unit.name, unit.facts
    says = f": {facts['StatusText']}" if facts.get("StatusText") else ""
    if facts.get("NeedDaemonReload") == "yes":
        return warning(
            _CHECK, f"{name} was changed on the disk since systemd read it", f"{unit.systemctl} daemon-reload"
        )
    if facts.get("LoadState") == "not-found":
        return ok(_CHECK, f"{name} is not installed as a service")
    if facts.get("LoadState") != "loaded":
        return problem(_CHECK, f"{name} cannot be loaded ({facts.get('LoadState')})", f"systemctl status {name}")
    if trouble := unit.trouble(ends=ends):
        return problem(_CHECK, trouble.text, trouble.remedy)
    if unit.active == "failed":
        return problem(_CHECK, f"{name} has failed ({facts.get('Result')}){says}", f"{unit.systemctl} restart {name}")
    if facts.get("SubState") == "auto-restart":
        return warning(_CHECK, f"{name} ended, and is about to be started again{says}", f"{journalctl} -u {name} -n 20")
    text = f"{name} is {unit.active} ({facts.get('UnitFileState') or 'unknown'}){says}"
    waits = unit.waits() if unit.active == "active" else None
    return ok(_CHECK, text) if waits is None else warning(_CHECK, text, waits.remedy)
