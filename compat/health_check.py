#!/usr/bin/env python3
"""Look at a memory, SQLite's or LadybugDB's: the old script's name and options, nimad's work.

    python3 health_check.py [--db PATH] [--verbose] [--json]

This is `nimad health` with the same options, and it ends as that does: 0 when all is well, 1 when something is wrong;
69 where nimad is not installed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parent))  # which `-I` and PYTHONSAFEPATH leave out

import nimad_program


def main() -> NoReturn:
    try:
        program = nimad_program.find()
    except nimad_program.NotInstalledError as error:
        nimad_program.say("ERROR", str(error))
        sys.exit(nimad_program.NOT_INSTALLED)
    words = [*program, "health", *sys.argv[1:]]
    os.execve(words[0], words, nimad_program.environment())


if __name__ == "__main__":
    main()
