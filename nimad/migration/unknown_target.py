"""A target of which no run tells, as one that was copied alone: adopted if its memories are the source's.

Without a ledger nothing tells which side a value is from, so the target's values stay, and what it lacks is added.
"""

from collections.abc import Mapping
from typing import Any

from nimad.compare import comparison
from nimad.compare.source_identity import OTHERS
from nimad.errors import NimadError
from nimad.events.sync import Adopted
from nimad.host.disk import storage_version
from nimad.migration.context import Context
from nimad.source.schema import NODES
from nimad.state.target_state import of_target, stamp_of
from nimad.worker.compare.facts import TableCompared


def adopt(context: Context, counted: Mapping[str, int]) -> Mapping[str, Any]:
    """Note the target as one of this source, and return its state. `counted`: rows by table of the target."""
    files, state = context.files, context.state
    state.published, state.file, state.schema = dict(counted), stamp_of(files.target), context.survey.schema.to_json()
    state.bounds = {}  # nothing is known to be there, so every row is looked for
    state.engine = {**state.engine, "storage_version": storage_version(files.target) or 0}
    state.phase = "complete"
    state.write()
    context.listener(Adopted(str(files.target), str(context.settings.source)))
    return of_target(files)


def why_not(context: Context) -> str:
    """Why the memories of the target are not those of the source; empty where they are."""
    settings, files = context.settings, context.files
    try:
        answer = comparison.ask_alone(settings, comparison.job_of(settings, files, {}), context.workers.stop)
    except NimadError as error:
        return str(error)
    nodes = TableCompared.from_json(answer.facts["tables"][NODES])
    if nodes.paired and nodes.paired >= (1 - OTHERS) * min(nodes.rows, nodes.there):
        return ""
    return f"of its {nodes.there} memories, {nodes.paired} are among the {nodes.rows} of {settings.source}"
