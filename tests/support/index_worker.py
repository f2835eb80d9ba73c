"""`index_worker.py PARENT MODULE`: the worker, with a stand-in for the engine's VECTOR extension.

The extension is on no package index, so what surrounds it is shown with something else that changes a file, which the
name of the extension's file chooses. Everything else is the real worker on the real engine.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from nimad.target import vector_extension
from nimad.target.database import Database
from nimad.worker import __main__ as worker


def _table(database: Database) -> None:
    database.run("CREATE NODE TABLE StandIn(id INT64 PRIMARY KEY)")


def _halfway(database: Database) -> None:
    database.run("MATCH (n:MemoryNode) WHERE n.id > 10 DETACH DELETE n")
    database.checkpoint()
    os.kill(os.getpid(), signal.SIGSEGV)


def _lose(database: Database) -> None:
    database.run("MATCH (n:MemoryNode {id: 3}) DETACH DELETE n")


def _change(database: Database) -> None:
    database.run("MATCH (n:MemoryNode {id: 3}) SET n.text = 'something else'")


#: What stands in for making the index, by the name of the extension's file.
DOES: Mapping[str, Callable[[Database], None]] = {
    "works": _table,
    "crashes": _halfway,
    "loses": _lose,
    "changes": _change,
}


def main() -> int:
    made: dict[int, str] = {}
    run = Database.run

    def load(database: Database, extension: str) -> None:
        made[id(database)] = Path(extension).stem

    def stand_in(database: Database, cypher: str, **parameters: object) -> None:
        if cypher.startswith("CALL CREATE_VECTOR_INDEX"):
            DOES[made[id(database)]](database)
        else:
            run(database, cypher, **parameters)

    vars(vector_extension).update(load=load, _ask=lambda _: None)
    setattr(Database, "run", stand_in)  # noqa: B010 - by assignment it would be a type of its own
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
