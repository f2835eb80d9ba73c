"""The two usual names of a target: one is the file, one a link to it; which is which follows from what is there."""

import os
from pathlib import Path

import pytest
from test_target_names import AGENT, GUIDE, agents, bare, chosen, home, memory_in

from nimad.config import Settings, load
from nimad.config.target_names import Surroundings, choose_names
from nimad.errors import UsageError
from nimad.host import filesystems
from nimad.state.paths import Files

__all__ = ["agents", "bare", "home"]  # fixtures


@pytest.mark.parametrize("name", [AGENT, GUIDE])
def test_a_memory_that_has_one_of_the_names_leaves_the_other_to_the_target(bare: Path, name: str) -> None:
    source = bare.rename(bare.with_name(name))
    found = chosen(source)
    assert (found.target, found.link) == (source.with_name(GUIDE if name == AGENT else AGENT), None)


@pytest.mark.parametrize("name", [f"{AGENT}.wal", f"{GUIDE}.state.json"])
def test_no_further_name_is_one_beside_either_name(bare: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a file beside it"):
        Settings(source=bare, also=(name,))


SIGNS = (
    "precognitions.sqlite",
    "actr_state.db",
    "protocols.db",
    "embedding_cache.db",
    "embedding_index.npy",
    "dreams/",
)


@pytest.mark.parametrize("name", [*SIGNS, "faiss.index", "dreams/"])
@pytest.mark.parametrize("where", ["beside", "above"])
def test_the_agents_data_shows_that_it_is_here(tmp_path: Path, name: str, where: str) -> None:
    source = memory_in(tmp_path / "data/memory")
    assert chosen(source).target.name == GUIDE
    place = (source.parent if where == "beside" else source.parent.parent) / name
    place.mkdir() if name.endswith("/") else place.touch()
    found = chosen(source)
    assert (found.target.name, found.link) == (AGENT, source.with_name(GUIDE))
    assert str(place) in found.origin("target")
    assert Settings(source=source).target == found.target, "from Python it is the same"


@pytest.mark.parametrize("sign", [".openclaw/extensions/nima-memory", ".nima/.env"])
def test_a_plugin_in_the_owners_home_shows_it(bare: Path, home: Path, sign: str) -> None:
    (home / sign).mkdir(parents=True)
    assert chosen(bare).target == bare.with_name(AGENT)
    assert sign in chosen(bare).origin("target")


def test_a_settings_file_of_former_times_still_holds(agents: Path, tmp_path: Path) -> None:
    config = tmp_path / "nimad.toml"
    config.write_text(f'[target]\npath = "{agents.with_name(GUIDE)}"\nalso = ["{AGENT}"]\n')
    settings = load({"source": agents}, os.environ, config)
    assert settings.target == agents.with_name(AGENT)
    assert Files.of(settings).also == (GUIDE,)


@pytest.mark.parametrize("line", ["NIMA_LADYBUG_DB={}", 'export NIMA_LADYBUG_DB="{}"  # here', "NIMA_LADYBUG_DB='{}'"])
def test_the_agents_own_file_of_variables_names_it_too(agents: Path, home: Path, line: str) -> None:
    place = home / "disk/agent.lbug"
    place.parent.mkdir()
    (home / ".nima/.env").write_text(f"# NIMA_LADYBUG_DB=/no\nNIMA_STORE=x\n{line.format(place)}\n")
    found = chosen(agents)
    assert (found.target, found.link) == (place, agents.with_name(GUIDE))
    assert "NIMA_LADYBUG_DB in" in found.origin("target")
    assert chosen(agents, target=agents.with_name(GUIDE)).target == place, "what is to become the link means the file"


@pytest.mark.parametrize(
    "content", [b"NIMA_LADYBUG_DB=relative.lbug\n", b"NIMA_LADYBUG_DB=/a\0b\n", b"\xff\xfe=\n", b""]
)
def test_a_file_of_variables_that_says_nothing_of_use_is_no_obstacle(agents: Path, home: Path, content: bytes) -> None:
    (home / ".nima/.env").write_bytes(content)
    assert chosen(agents).target == agents.with_name(AGENT)


def test_a_pipe_in_place_of_the_variables_is_not_waited_for(agents: Path, home: Path) -> None:
    os.mkfifo(home / ".nima/.env")
    assert chosen(agents).target == agents.with_name(AGENT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works for others")
def test_root_takes_no_place_from_the_agents_file_where_the_agent_could_not_write(agents: Path, home: Path) -> None:
    for path in (home, home / ".nima", agents.parent, agents):
        os.chown(path, 4321, 4321)
    env = home / ".nima/.env"
    env.write_text(f"NIMA_LADYBUG_DB={home.parent}/of-root.lbug\n")
    os.chown(env, 4321, 4321)
    assert chosen(agents).target == agents.with_name(AGENT)


def test_on_a_stick_the_only_name_is_the_agents(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one is in tests/system/disks.py."""
    assert choose_names(bare, None, Surroundings()).file.name == GUIDE
    monkeypatch.setattr(filesystems, "of", lambda _: filesystems.FileSystem("vfat", has_links=False))
    chosen = choose_names(bare, None, Surroundings())
    assert (chosen.file.name, chosen.why) == (AGENT, "chosen: nima-core opens it, and vfat has no links")
    assert choose_names(bare, bare.with_name(GUIDE), Surroundings()).file.name == GUIDE, "what was asked for"
