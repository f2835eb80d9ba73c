"""What the real openclaw says of each form of its file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.commands import GOLDEN
from test_openclaw import (
    FORMS,
    UPDATE,
    Said,
    golden,
    home,
    printed,
    written,
)

__all__ = ["home"]  # fixtures

OPENCLAW = os.environ.get("NIMAD_OPENCLAW") or shutil.which("openclaw")
#: Seconds that OpenClaw may take on a busy machine: some five, most of the time.
SLOW_S = 180


@pytest.mark.skipif(OPENCLAW is None, reason="openclaw is not on the PATH, and NIMAD_OPENCLAW does not name it")
def test_the_real_openclaw_says_what_the_golden_files_have(home: Path) -> None:
    """`openclaw config validate`, OpenClaw 2026.9.6 on Node 24: the forms that people have, and what we print."""
    forms = {**FORMS, **dict(printed(home))}
    for name, document in forms.items():
        said = Said(document, validated(home, document))
        if UPDATE:
            text = f"$ cat openclaw.json\n{document}$ openclaw config validate\n{said.answer}"
            (GOLDEN / f"openclaw-{name}.txt").write_text(text, encoding="utf-8")
        kept = golden(name)
        assert (said.accepted, said.disabled, said.fine) == (kept.accepted, kept.disabled, kept.fine), said.answer


def validated(home: Path, document: str) -> str:
    assert OPENCLAW is not None
    written(home, document)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "NO_COLOR": "1"}
    done = subprocess.run(
        [OPENCLAW, "config", "validate"],
        env=environment,
        cwd=home,
        timeout=SLOW_S,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return f"{done.stdout.replace(str(home), '~')}[exit {done.returncode}]\n"
