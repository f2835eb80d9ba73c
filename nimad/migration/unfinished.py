"""The plan for an unfinished target: how much disk the rest of it needs.

For the plan, which is made before anything is opened. What a run goes on from is counted.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nimad.config import Settings
from nimad.host import machine
from nimad.source.survey import Survey, TableSurvey
from nimad.state import target_state
from nimad.state.paths import Files
from nimad.supervisor.plan import Plan


def planned(plan: Plan, settings: Settings, files: Files, survey: Survey) -> Plan:
    """The plan for what is there: as for a new target, or for going on with one."""
    held = machine.space_taken(files.staging) if files.staging.is_file() else 0
    if not held:
        return plan
    made = target_state.read(files)
    tells = made.get("phase") != "complete" and isinstance(made.get("counts"), dict) and bool(made["counts"])
    if settings.restart or not tells:  # nothing tells how far it is: as much as if none of it were of use
        kept = 0 if settings.restart else held
        return replace(plan, disk_needed=max(0, plan.disk_needed - held), disk_held=kept)
    left = {name: _left(table, made["counts"].get(name)) for name, table in survey.tables.items()}
    used = machine.space_used(files.staging, _number(made.get("free_bytes")))
    return plan.going_on(held, used, left, survey)


def _left(table: TableSurvey, count: Any) -> tuple[int, int]:
    """Rows and bytes of a table that are not in the target yet."""
    done = _number(count.get("done")) if isinstance(count, Mapping) else 0
    rows = max(0, table.rows - done)
    return rows, table.bytes * rows // max(1, table.rows)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
