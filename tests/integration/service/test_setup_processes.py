"""Setting the service up, in a folder taken for the machine: what is written, what is refused, what is taken."""

import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from support.memories import make_memory, node
from test_setup import PROGRAM, home, names, plugin, refusal, root, user

from nimad.errors import CannotWriteError, NotAllowedError
from nimad.host.rights import UserAccount
from nimad.service import agent_scripts, setup

__all__ = ["home", "plugin", "root"]  # fixtures


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_a_memory_that_is_closed_to_the_user(root: Path, home: Path) -> None:
    error = refusal(root, user(home, uid=12_345))
    assert isinstance(error, NotAllowedError)
    assert "pi may not read" in str(error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_a_folder_that_the_user_cannot_write_in(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    open_to_all = Path(tmp_path_factory.mktemp("open"))
    # Up to the first that is not closed, whose number differs with the number of processes.
    for folder in takewhile(lambda each: not each.stat().st_mode & 0o001, (open_to_all, *open_to_all.parents)):
        folder.chmod(0o755)
    source = make_memory(open_to_all / "graph.sqlite", nodes=[node(1)])
    error = refusal(root, user(open_to_all, uid=12_345), source)
    assert f"pi may not write in {open_to_all}" in str(error)


def test_the_plugins_scripts_become_ours_and_what_was_there_is_kept(root: Path, home: Path, plugin: Path) -> None:
    written = setup.set_up(user(home), None, PROGRAM, root)
    assert written.scripts
    assert {plugin / name for name in agent_scripts.NAMES} <= set(written.changed)
    (kept,) = written.kept
    assert kept.name.startswith("migrate_to_ladybug.py.backup-2")
    assert kept.read_text() == "print('of nima-core')\n"
    ours = plugin / "migrate_to_ladybug.py"
    assert os.access(ours, os.X_OK)
    head = ours.read_text().splitlines()[:2]
    assert head[0] == "#!/usr/bin/env python3"
    assert head[1].endswith(f"and puts back: {kept.name}")
    found = "import nimad_program; print(nimad_program.find())"
    asked = subprocess.run([sys.executable, "-B", "-c", found], cwd=plugin, capture_output=True, text=True, check=True)
    assert asked.stdout == f"{PROGRAM}\n"
    again = setup.set_up(user(home), None, PROGRAM, root)
    assert (again.changed, again.kept, len(names(plugin))) == ([], [], 4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could write where she may not")
def test_root_writes_no_script_where_she_could_not(ground: Path) -> None:
    """Her plugin's folder is a link to a folder of another's: what root could write there, she could not."""
    home, other = ground / "home", ground / "other"
    for folder in (home, other, home / agent_scripts.FOLDER.parent):
        folder.mkdir(parents=True, exist_ok=True)
    other.chmod(0o755)
    (home / agent_scripts.FOLDER).symlink_to(other)
    for folder in (home, *(home / part for part in (".openclaw", ".openclaw/extensions"))):
        os.chown(folder, 12_345, 12_345)
    place = agent_scripts.place_of(UserAccount("pi", 12_345, 12_345, str(home), known=True))
    assert place is not None
    with pytest.raises(CannotWriteError, match=r"cannot be written by its owner .*--no-drop-ins"):
        agent_scripts.install(place, PROGRAM)
    assert names(other) == []
    os.chown(other, 12_345, 12_345)
    agent_scripts.install(place, PROGRAM)
    assert {path.stat().st_uid for path in other.iterdir()} == {12_345}
