"""Python and LadybugDB: which package is installed, what it writes, and whether the agent can read it."""

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import nimad
from nimad.config import command
from nimad.config.settings import AUTO
from nimad.diagnostics.checks.finding import ASKING_S, Examined, Finding, ok, problem, warning
from nimad.engines import selection
from nimad.engines.interpreter import Interpreter
from nimad.engines.packages import (
    MODULE,
    REQUIREMENTS,
    in_range,
    install,
    install_newest,
    missing,
    uninstall,
    unloadable,
)
from nimad.engines.probe_script import NAMESAKE
from nimad.errors import NimadError
from nimad.host.deadline import within
from nimad.host.disk import FileKind, kind_of, storage_version
from nimad.migration import large_pages
from nimad.state import provenance

_CHECK, _READERS, _STORAGE = "engine", "readers", "storage version"
#: The oldest pyarrow that workers use.
_ARROW: Final = "pyarrow>=15"


def python(_: Examined) -> Iterator[Finding]:
    place = Path(nimad.__file__).parent
    yield ok("python", f"{platform.python_version()}, {sys.executable}; nimad {nimad.__version__} in {place}")


def own_engine(examined: Examined) -> Iterator[Finding]:
    """What lies behind the engine's import names in our own interpreter."""
    with within(ASKING_S) as stop:
        answers, ended = Interpreter().ask(stop, ASKING_S, "engines", *REQUIREMENTS)
    if ended:
        yield problem(_CHECK, f"{sys.executable} does not say what it has: {ended}")
        return
    found = {str(answer.get("module")): answer for answer in answers}
    wanted = MODULE if examined.settings.engine == AUTO else examined.settings.engine
    for module, answer in found.items():
        if answer.get("problem") != "missing" or module == wanted:
            yield _of_package(module, answer)
    if any("version" in answer for answer in found.values()) and not any(a.get("pyarrow") for a in found.values()):
        yield warning(
            _CHECK, "pyarrow is not here: rows travel one by one, some four times slower", install_newest(_ARROW)
        )


def _of_package(module: str, answer: Mapping[str, Any]) -> Finding:
    again = install(module, again=True)
    remove = f"{uninstall(NAMESAKE)}{again}"
    wrong, folder = answer.get("problem"), answer.get("folder")
    namesake = answer.get("namesake") or _namesake()
    if wrong == "missing":
        return problem(_CHECK, missing(module), "" if "64-bit systems only" in missing(module) else install(module))
    if wrong == "namesake":
        what = f"import {module} finds {NAMESAKE} {namesake} in {folder}: a weather-file library, and no database"
        return problem(_CHECK, what, remove)
    if wrong == "another":
        return problem(_CHECK, f"import {module} finds another package in {folder}, and no database", again)
    if wrong is not None:
        return problem(_CHECK, unloadable(str(wrong), module).partition(". Install")[0], again)
    what = f"{module} {answer['version']} (storage version {answer['storage_version']}) in {folder}"
    if not in_range(str(answer["version"])):
        return problem(_CHECK, f"{what}: a release that nimad was not measured with", install(module))
    if namesake and module == MODULE:
        both = f"{what} wins the import, but {NAMESAKE} {namesake} has the same name: whichever comes last is found"
        return warning(_CHECK, both, remove)
    return ok(_CHECK, what)


def _namesake() -> str | None:
    """The weather-file library's version in our own interpreter, whichever of the two the import finds."""
    try:
        return metadata.version(NAMESAKE)
    except metadata.PackageNotFoundError:
        return None


def readers(examined: Examined) -> Iterator[Finding]:
    """The agent's interpreters, and whether they open what is there or would be written."""
    settings = examined.settings
    with within(ASKING_S) as stop:
        choice = selection.choose_engine(settings, examined.owned, provenance.made_with(settings.target), stop)
    there = _version_there(settings.target)
    for reader in choice.readers:
        if there is not None and reader.storage_version < there:
            what = f"{reader} cannot open {settings.target} (storage version {there})"
            yield problem(_READERS, what, command.migrate(settings, "--replace"))
        else:
            yield ok(_READERS, f"{reader}{' opens the target' if there is not None else ''}")
    for failing in large_pages.warnings(choice):
        yield problem(_READERS, failing)
    for unusable in choice.unusable:
        yield warning(_READERS, unusable, _mend_reader(unusable))
    if choice.refusal:
        yield problem(_READERS, choice.refusal)
    elif not choice.readers:
        who = "nobody is asked" if settings.no_reader else "no Python of an agent's with a LadybugDB was found"
        yield ok(_READERS, f"{who}: {settings.engine if settings.engine != AUTO else MODULE} would write")
    else:
        yield ok(_READERS, f"{choice.module} of {choice.interpreter.python} would write: {choice.why}")


def _mend_reader(unusable: str) -> str:
    python, _, why = unusable.partition(": ")
    if NAMESAKE not in why:
        return ""
    return f"{uninstall(NAMESAKE, python)}{install(MODULE, python, again=True)}"


def storage(examined: Examined) -> Iterator[Finding]:
    """The target's storage version, by its first bytes."""
    target = examined.settings.target
    if not target.exists():
        yield ok(_STORAGE, f"there is no {target} yet")
        return
    if kind_of(target) is not FileKind.LADYBUG:
        yield problem(_STORAGE, f"{target} is no LadybugDB file: it is in the way", f"file {shlex.quote(str(target))}")
        return
    with within(ASKING_S) as stop:
        found, _ = selection.look_for_engines(Interpreter(), stop)
    ours, there = max((each.storage_version for each in found), default=0), _version_there(target) or 0
    if ours and there > ours:
        what = f"{target} has {there}, and the newest LadybugDB here opens up to {ours}"
        yield problem(_STORAGE, what, install_newest(REQUIREMENTS[MODULE]))
    else:
        yield ok(_STORAGE, f"{target} has {there}" + (f"; LadybugDB here opens up to {ours}" if ours else ""))


def _version_there(target: Path) -> int | None:
    try:
        return storage_version(target)
    except (OSError, NimadError):
        return None
