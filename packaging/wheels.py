#!/usr/bin/env python3
"""Pin the wheels that the Debian packages are built with: the newest that pyproject.toml allows, each with its hash.

    make deb-wheels

Writes packaging/wheels/RELEASE-PROCESSOR.txt, to be looked at and committed.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import releases
from releases import PROCESSORS, RELEASES, Processor, Release


def main() -> int:
    for release in RELEASES:
        for processor in PROCESSORS:
            path = releases.pins(release, processor)
            path.write_text(_pinned(release, processor), encoding="utf-8")
            print(path.relative_to(releases.CHECKOUT))
    return 0


def _pinned(release: Release, processor: Processor) -> str:
    with tempfile.TemporaryDirectory() as work:
        what = [*releases.wheel_options(release, processor), *releases.requirements()]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", work, *what]
        subprocess.run(command, check=True, env=releases.quiet())
        lines = sorted(_line(wheel) for wheel in Path(work).glob("*.whl"))
    head = f"# For {release.suite} on {processor.debian}, written by `make deb-wheels`.\n"
    return head + "".join(lines)


def _line(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n"


if __name__ == "__main__":
    sys.exit(main())
