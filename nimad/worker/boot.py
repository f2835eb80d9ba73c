"""`boot.py PARENT MODULE`: the worker in an interpreter that does not have this program installed.

Only the package `nimad` itself is lent to it, by its place: a whole folder on the path would bring our engine along.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def lend() -> None:
    """Make `import nimad` find the package that this file is a part of."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "nimad", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None  # noqa: S101 - it is made from a file that is there
    assert spec.loader is not None  # noqa: S101
    package = importlib.util.module_from_spec(spec)
    sys.modules["nimad"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    lend()
    runpy.run_module("nimad.worker", run_name="__main__", alter_sys=True)
