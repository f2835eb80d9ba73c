"""The script that runs in another interpreter: which engine is there, and whether it opens a file.

    python probe_script.py engines MODULE...
    python probe_script.py count MODULE FILE POOL_BYTES ADDRESS_SPACE_BYTES
    python probe_script.py extension MODULE [FILE]
    python probe_script.py casing MODULE

An answer is one JSON line on stdout, for each module one. Standard library only and the syntax of Python 3.8, because
the agent's interpreter need not be able to run the rest of this program.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

#: A weather-file library that installs the import name of the engine.
NAMESAKE = "ladybug-core"
#: Exit status of a process that has answered, and which no package ends one with.
_ANSWERED = 86

#: How the agent's tables are counted; the names are those that its programs ask for.
_COUNTS = {
    "MemoryNode": "MATCH (n:MemoryNode) RETURN count(*)",
    "Turn": "MATCH (n:Turn) RETURN count(*)",
    "relates_to": "MATCH (:MemoryNode)-[r:relates_to]->(:MemoryNode) RETURN count(*)",
    "has_input": "MATCH (:Turn)-[r:has_input]->(:MemoryNode) RETURN count(*)",
    "has_contemplation": "MATCH (:Turn)-[r:has_contemplation]->(:MemoryNode) RETURN count(*)",
    "has_output": "MATCH (:Turn)-[r:has_output]->(:MemoryNode) RETURN count(*)",
}


def identify(name: str) -> tuple[Any, dict[str, Any]]:
    """Import the engine `name`; return the module, or None, and the facts.

    The facts always have `module`, `folder`, `python` and `pyarrow`; of an engine `version` and `storage_version`; of
    anything else `problem`: `missing`, or, with `namesake` (that library's version, where it is installed), `namesake`,
    `another` (a package that is no database) or what went wrong on importing it.
    """
    folder = folder_of(name)
    facts: dict[str, Any] = {
        "module": name,
        "folder": folder,
        "python": ".".join(map(str, sys.version_info[:3])),
        "pyarrow": importlib.util.find_spec("pyarrow") is not None,
    }
    if folder is None:
        return None, dict(facts, problem="missing")
    if _names_no_database(folder) and _installed(NAMESAKE):
        return None, _without(facts, "namesake")
    try:
        module = importlib.import_module(name)
        version, storage = str(module.Database.get_version()), int(module.Database.get_storage_version())
    except AttributeError:
        return None, _without(facts, "namesake" if _installed(NAMESAKE) else "another")
    except Exception as error:  # noqa: BLE001 - whatever a stranger's package raises while it is imported
        return None, _without(facts, "namesake" if _installed(NAMESAKE) else f"{type(error).__name__}: {error}")
    return module, dict(facts, version=version, storage_version=storage)


def _without(facts: dict[str, Any], problem: str) -> dict[str, Any]:
    """The facts where the name leads to no engine."""
    return dict(facts, problem=problem, namesake=_installed(NAMESAKE))


def folder_of(name: str) -> str | None:
    """Where an import name leads, None where it leads nowhere. Nothing is imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or [str(Path(spec.origin or "?").parent)]
    return str(places[0])


def count(name: str, file: str, pool_bytes: int, address_space_bytes: int) -> dict[str, Any]:
    """Open a file as the agent would, but read-only, and count it."""
    module, facts = identify(name)
    if module is None:
        return facts
    try:
        limits = {"buffer_pool_size": pool_bytes, "max_db_size": address_space_bytes, "max_num_threads": 1}
        database = module.Database(file, read_only=True, **limits)
        connection = module.Connection(database)
        counts = {}
        for table, query in _COUNTS.items():
            counts[table] = connection.execute(query).get_next()[0]
        connection.close()
        database.close()
    except Exception as error:  # noqa: BLE001 - an engine raises RuntimeError, and others where the file is not its own
        return dict(facts, problem=" ".join(str(error).split()) or type(error).__name__)
    return dict(facts, counts=counts)


def loading(file: str) -> str:
    """The statement that loads the VECTOR extension: a file that is named, or the installed one."""
    named = file.replace("\\", "\\\\").replace("'", "\\'")
    return f"LOAD EXTENSION '{named}'" if named else "LOAD EXTENSION VECTOR"


def load_extension(name: str, file: str) -> dict[str, Any]:
    """See whether the VECTOR extension loads: a file that is named, or the installed one."""
    module, facts = identify(name)
    if module is None:
        return facts
    try:
        database = module.Database(":memory:", buffer_pool_size=1 << 26, max_db_size=1 << 30, max_num_threads=1)
        connection = module.Connection(database)
        connection.execute(loading(file))
        connection.close()
        database.close()
    except Exception as error:  # noqa: BLE001 - as above
        return dict(facts, problem=" ".join(str(error).split()) or type(error).__name__)
    return facts


def casing(name: str) -> dict[str, Any]:
    """See whether the engine finds a function by its name, which it upper-cases as the locale has it."""
    module, facts = identify(name)
    if module is None:
        return facts
    try:
        database = module.Database(":memory:", buffer_pool_size=1 << 26, max_db_size=1 << 30, max_num_threads=1)
        connection = module.Connection(database)
        connection.execute("RETURN list_contains([1], 1)")
        connection.close()
        database.close()
    except Exception as error:  # noqa: BLE001 - as above
        return dict(facts, problem=" ".join(str(error).split()) or type(error).__name__)
    return facts


def _names_no_database(folder: str) -> bool:
    """Whether a package is none of the engine's: read, not run, because importing ladybug-core makes `~/.ladybug`."""
    try:
        return "Database" not in Path(folder, "__init__.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _installed(distribution: str) -> str | None:
    import importlib.metadata  # a tenth of a worker's imports, and only asked for where something is wrong

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _identify_apart(name: str, answer: TextIO) -> None:
    """Identify an engine in a process of its own: importing it may end that, and two of them do not go together."""
    child = os.fork()
    if not child:
        answer.write(json.dumps(identify(name)[1]) + "\n")
        answer.flush()
        os._exit(_ANSWERED)
    status = os.waitpid(child, 0)[1]
    if status != _ANSWERED << 8:
        how = f"signal {status & 127}" if status & 127 else f"exit status {status >> 8}"
        answer.write(json.dumps({"module": name, "problem": f"importing it ended with {how}"}) + "\n")
        answer.flush()  # or the next child would say it again


def main() -> None:
    sys.path.pop(0)  # this script's own folder, whose modules are none of the interpreter's
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints while it is imported
    task, arguments = sys.argv[1], sys.argv[2:]
    if task == "count":
        name, file, pool_bytes, address_space_bytes = arguments
        answer.write(json.dumps(count(name, file, int(pool_bytes), int(address_space_bytes))) + "\n")
    elif task == "casing":
        answer.write(json.dumps(casing(*arguments)) + "\n")
    elif task == "extension":
        answer.write(json.dumps(load_extension(*arguments)) + "\n")
    else:
        for name in arguments:
            _identify_apart(name, answer)
    answer.close()


if __name__ == "__main__":
    main()
