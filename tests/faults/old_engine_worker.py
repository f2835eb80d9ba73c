"""`old_engine_worker.py PARENT`: the worker, with `real-ladybug` 0.15.3 as its engine.

That is the release of the guide, under the package name of its time. Run it with the interpreter of an environment
in which it is installed; everything else is the real worker.
"""

import importlib.util
import sys

#: Releases that this worker takes: from, and below.
OLD_RANGE = ((0, 15), (0, 16))


def answer_to_todays_name() -> None:
    """Have `import ladybug` give `real_ladybug`, which scans Arrow tables only once `importlib.util` is imported."""
    assert importlib.util
    sys.modules["ladybug"] = importlib.import_module("real_ladybug")


def main() -> int:
    answer_to_todays_name()
    from nimad.target import engine
    from nimad.worker import __main__ as worker

    engine.VERSION_RANGE = OLD_RANGE
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
