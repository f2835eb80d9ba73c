"""Locales for tests, made by `localedef` into a folder of ours: nothing of the machine is changed, and root not needed.

>>> done = nimad(tmp_path, "status", **locales.environment(locales.TURKISH))

`NIMAD_TEST_LOCALE=tr_TR.UTF-8 python -m pytest …` starts every program of a test run in that locale (`conftest.py`).
"""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TURKISH: Final = "tr_TR.UTF-8"
LATIN: Final = "de_DE.ISO-8859-1"
#: Without any language; Python itself takes names and text for UTF-8 there (PEP 538 and 540).
ASCII: Final = "C"
#: By name: the source and the characters that `localedef` makes it of.
_SOURCES: Final = {TURKISH: ("tr_TR", "UTF-8"), LATIN: ("de_DE", "ISO-8859-1")}
FOLDER: Final = Path(__file__).parents[2] / "build" / "locales"
#: What says which language a program speaks.
NAMES: Final = ("LANG", "LANGUAGE", "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE")


def environment(locale: str) -> dict[str, str]:
    """The variables that have a program start in a locale. Skips the test where it cannot be made."""
    if locale in _SOURCES:
        _make(locale)
        return {"LC_ALL": locale, "LOCPATH": str(FOLDER)}
    return {"LC_ALL": locale}


@cache
def _make(locale: str) -> None:
    if (FOLDER / locale).is_dir():
        return
    language, characters = _SOURCES[locale]
    program = shutil.which("localedef")
    if program is None or not Path("/usr/share/i18n/locales", language).exists():
        pytest.skip(f"the locale {locale} cannot be made here: apt-get install locales")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        made = Path(folder, "made")
        subprocess.run([program, "-i", language, "-f", characters, made], check=True, capture_output=True)
        try:
            made.rename(FOLDER / locale)
        except OSError:  # another process of this test run was faster
            assert (FOLDER / locale).is_dir()


def inherited() -> None:
    """Have every program that this process starts speak the language that the test run was asked for.

    What is printed stays UTF-8, because tests look for words in it; `test_locales.py` is about what becomes of those.
    """
    if locale := os.environ.get("NIMAD_TEST_LOCALE"):
        for name in [name for name in os.environ if name in NAMES or name.startswith("LC_")]:
            del os.environ[name]
        os.environ.update(environment(locale), PYTHONIOENCODING="utf-8")
