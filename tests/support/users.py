"""Users of the tests: real numbers, which need no entry anywhere. ALICE owns the memory, BOB is somebody else."""

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nimad as package

ROOT, ALICE, BOB = 0, 61_001, 61_002
#: Fails unless a user can start a worker: the interpreter, its library, this program and the engine.
REACH = "import os, sys, nimad.cli, ladybug; sys.exit(not os.access(sys.executable, os.X_OK))"


def folder_of(uid: int, path: Path) -> Path:
    path.mkdir(mode=0o755)
    return given(uid, path)


def given(uid: int, path: Path) -> Path:
    os.chown(path, uid, uid)
    return path


def words_that_open(aside: Sequence[Path]) -> list[str]:
    """Words before a command in whose view of the disk other users reach the interpreter; `aside`: empty folders."""
    needed = {Path(os.path.realpath(each)) for each in (sys.base_prefix, sys.prefix, Path(package.__file__).parents[1])}
    mounts = []
    for folder, empty in zip(
        sorted({closed for each in needed if (closed := first_closed(each))}), aside, strict=False
    ):
        mounts += [f"mount --rbind {folder} {empty}", f"mount -t tmpfs -o mode=755 none {folder}"]
        for each in sorted(path for path in needed if path.is_relative_to(folder)):
            mounts += [f"mkdir -p {each}", f"mount --bind {empty / each.relative_to(folder)} {each}"]
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def as_alice(*command: str, prefix: Sequence[str] = ()) -> str:
    """Run a command as her; what it said when it failed."""
    words = [*prefix, "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", *command]
    done = subprocess.run(words, capture_output=True, cwd="/", check=False)
    return "" if done.returncode == 0 else done.stderr.decode() or f"exit {done.returncode}"


def first_closed(path: Path) -> Path | None:
    folders = [*reversed(path.parents), path]
    return next((each for each in folders if not each.stat().st_mode & stat.S_IXOTH), None)
