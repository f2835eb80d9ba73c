"""The two names of a target: the agent's and the guide's. One is the file, the other a link to it.

The engine keeps its log beside the name by which a file was opened, so the file has the name that most writers open:
the agent's wherever nima-core shows, and otherwise the guide's. A target that is there already stays where it is.
"""

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nimad.config import defaults, env_file
from nimad.host import filesystems
from nimad.host.disk import destination, leads_to

#: The name that every release of nima-core opens, and the one of the guide.
AGENT_NAME: Final = "ladybug.lbug"
GUIDE_NAME: Final = defaults.TARGET_NAME
#: How the origin of a target begins whose name was chosen, and not said by anybody.
CHOSEN: Final = "chosen: "

VARIABLE: Final = "NIMA_LADYBUG_DB"
_PLUGIN: Final = Path(".openclaw/extensions/nima-memory")
_ENV_FILE: Final = Path(".nima") / env_file.NAME
#: What nima-core's programs keep beside a memory, or in the folder above.
_DATA: Final = (
    *("precognitions.sqlite", "actr_state.db", "protocols.db"),
    *("embedding_cache.db", "embedding_index.npy", "faiss.index", "dreams"),
)
_NIMA_HOME: Final = ".nima"
_MEMORY: Final = "memory"


@dataclass(frozen=True)
class TargetNames:
    """`file`: the target itself; `link`: its second name, None where it has one name; `why`: this is the file."""

    file: Path
    link: Path | None = None
    why: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What may tell of an agent: the home of whoever asks, the variables, and a folder that they call NIMA's."""

    home: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def homes(self, source: Path) -> Iterator[Path]:
        """The homes in which the agent of this memory may be: of the user, and, as root, of the memory's owner."""
        if self.home is not None:
            yield self.home
        if os.geteuid() == 0:
            with suppress(OSError, KeyError):
                yield Path(pwd.getpwuid(source.stat().st_uid).pw_dir)


def choose_names(source: Path, asked: Path | None, around: Surroundings) -> TargetNames:
    """Given a memory and the target that was asked for, None for the usual one, say which file that is.

    What is there decides first, then what was asked for, and then whether nima-core shows.
    """
    asked = None if asked is None else followed(asked)
    if asked is not None and asked.name in (AGENT_NAME, GUIDE_NAME) and not _is_same_folder(asked, source):
        beside = asked.with_name(defaults.SOURCE_NAME)
        if _is_plain(beside):  # the agent of that memory may show, and nothing of ours says where it writes
            return choose_names(beside, asked, Surroundings(around.home))
    agent, said_by = _agents_name(source, around)
    guide = source.with_name(GUIDE_NAME if agent != source.with_name(GUIDE_NAME) else AGENT_NAME)
    if asked is None and not said_by and source in (agent, guide):  # a memory that is called so
        return TargetNames(guide if source == agent else agent)
    if asked is None or _spelled(agent, asked) == asked or _spelled(guide, asked) == asked:
        sign = said_by or sign_of_agent(source, around)
    elif asked.name in (AGENT_NAME, GUIDE_NAME):
        agent, guide, sign = asked.with_name(AGENT_NAME), asked.with_name(GUIDE_NAME), ""
    else:
        return TargetNames(asked)
    if asked is not None:
        agent, guide = _spelled(agent, asked), _spelled(guide, asked)
    file, why = _file_of(agent, guide, asked, sign)
    return TargetNames(file, guide if file == agent else agent, why)


def _spelled(path: Path, asked: Path) -> Path:
    """A name in the folder of the target that was asked for, written as that was."""
    return asked.with_name(path.name) if _is_same_folder(path, asked) else path


def _is_same_folder(path: Path, other: Path) -> bool:
    return path.parent == other.parent or os.path.realpath(path.parent) == os.path.realpath(other.parent)


def _file_of(agent: Path, guide: Path, asked: Path | None, sign: str) -> tuple[Path, str]:
    if asked is not None and _is_plain(asked):
        return asked, ""
    here, there = _rank(agent, guide), _rank(guide, agent)
    if here != there:
        return (agent if here > there else guide), f"{CHOSEN}it is there already"
    if sign:
        return agent, sign if sign.startswith(defaults.ENVIRONMENT) else f"{CHOSEN}nima-core opens it ({sign})"
    if asked is None and not (kind := filesystems.of(agent.parent)).has_links:  # then it is the only name
        return agent, f"{CHOSEN}nima-core opens it, and {kind.name} has no links"
    return asked or guide, ""


def _rank(path: Path, other: Path) -> int:
    """How much there is of a target of this name: a finished one, what our runs or a pause left, any file, a link."""

    def has(suffix: str) -> bool:
        return _is_plain(path.with_name(path.name + suffix))

    if _is_plain(path) and has(".state.json"):
        return 4
    if any(map(has, (".state.json", ".migrating", ".paused", ".lock"))):
        return 3
    if _is_plain(path):
        return 2
    return 1 if leads_to(other, path) else 0


def followed(path: Path) -> Path:
    """The target that a link of ours leads to; any other path as it is.

    In its own folder that is the other name, or a file of which a run tells. Out of it only a target of the link's
    own owner: whoever can make a link in a folder of theirs is not to choose the files of others.
    """
    to = destination(path)
    if to is None:
        return path
    told = _is_plain(to.with_name(f"{to.name}.state.json"))
    if to.parent == Path(os.path.realpath(path.parent)):
        names = {AGENT_NAME, GUIDE_NAME}
        return path.with_name(to.name) if told or {path.name, to.name} == names else path
    with suppress(OSError):
        if told and _is_plain(to) and to.stat().st_uid == path.lstat().st_uid:
            return to
    return path


# Where the agent shows


def sign_of_agent(source: Path, around: Surroundings) -> str:
    """What shows that nima-core uses the folder of this memory, or is installed for its owner; empty where nothing."""
    folder = source.parent
    if folder.name == _MEMORY and folder.parent.name == _NIMA_HOME:
        return f"{folder.parent} is its home"
    if around.home is not None and any(around.env.get(name) for name in ("NIMA_HOME", "NIMA_DATA_DIR")):
        home, said_by = defaults.data_home(around.env, around.home)
        if home / _MEMORY == folder:
            return f"{said_by.removeprefix(defaults.ENVIRONMENT)} names its home"
    kept = [folder / name for name in _DATA]
    kept += [folder.parent / name for name in _DATA if folder.name == _MEMORY]
    agents = folder / AGENT_NAME
    if os.path.lexists(agents) and not leads_to(agents, folder / GUIDE_NAME):
        return f"{agents} is there"
    in_homes = (home / name for home in around.homes(source) for name in (_PLUGIN, _ENV_FILE))
    return next((f"{path} is there" for path in (*kept, *in_homes) if os.path.lexists(path)), "")


def _agents_name(source: Path, around: Surroundings) -> tuple[Path, str]:
    """The file that the agent opens, and where that is said; by default `ladybug.lbug` beside the memory."""
    if named := around.env.get(VARIABLE):
        return defaults.expand(named, around.home), f"{defaults.ENVIRONMENT}{VARIABLE}"
    for home in around.homes(source):
        file = home / _ENV_FILE
        if (named := _variable(file)) and (path := _usable(named, home, file)) is not None:
            return path, f"{VARIABLE} in {file}"
    return source.with_name(AGENT_NAME), ""


def _usable(named: str, home: Path, file: Path) -> Path | None:
    """The path that a file of variables names, unless root would write for its author where that one could not."""
    if "\0" in named:
        return None
    path = home.joinpath(*Path(named).parts[1:]) if named.startswith("~/") else Path(named)
    try:
        owner = file.stat().st_uid
        may = os.geteuid() != 0 or owner == 0 or path.parent.stat().st_uid == owner
    except OSError:
        return None
    return path if may and path.is_absolute() else None


def _variable(file: Path) -> str:
    """The value of NIMA_LADYBUG_DB in a file of variables; empty where it has none or cannot be read."""
    text, _ = env_file.read(file, follow=False)
    return next((line.value for line in reversed([*env_file.lines(text)]) if line.name == VARIABLE), "")


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False
