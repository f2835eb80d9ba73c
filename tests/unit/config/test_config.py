"""What a run is asked to do: every layer, every origin, and the words for what cannot be."""

import dataclasses
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from nimad.config import OpenClaw, Settings, Verify, load, read_openclaw, toml_file
from nimad.config.toml_file import HOOKS
from nimad.errors import ConfigurationError, NotAllowedError, UsageError
from nimad.host import bounded

ASKING = """{
  // the memory
  "plugins": { entries: {
    'nima-memory': {
      config: { database: { backend: "ladybugdb", auto_migrate: true, migration_batch_size: 300, }, },
    },
  }},
}
"""

Toml = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(toml_file, "DEFAULT_FILE", tmp_path / "etc" / "nimad.toml")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


@pytest.fixture
def toml(home: Path) -> Toml:
    def write(text: str) -> Path:
        path = home / "nimad.toml"
        path.write_text(text)
        return path

    return write


def openclaw_at(home: Path, text: str) -> Path:
    path = home / ".openclaw" / "openclaw.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# Places


def test_without_a_word_everything_stands_in_the_home_of_nima(home: Path, env: dict[str, str]) -> None:
    settings = load({}, env)
    assert settings.source == home / ".nima/memory/graph.sqlite"
    assert settings.target == home / ".nima/memory/ladybug.lbug", "the name that nima-core opens"
    assert settings.log_file == home / ".nima/memory/migration.log"
    assert settings.openclaw_file == home / ".openclaw/openclaw.json"
    assert settings.openclaw is None
    names = {field.name for field in dataclasses.fields(Settings)}
    chosen = {"target": f"chosen: nima-core opens it ({home}/.nima is its home)"}
    assert settings.origins == dict.fromkeys(names, "default") | chosen


@pytest.mark.parametrize(
    ("name", "value"),
    [("NIMA_HOME", "~/n"), ("NIMA_DATA_DIR", "~/n"), ("NIMA_DATA_DIR", "~/n/memory/")],
)
def test_a_moved_data_home_moves_all_three(home: Path, env: dict[str, str], name: str, value: str) -> None:
    settings = load({}, env | {name: value})
    assert settings.source == home / "n/memory/graph.sqlite"
    assert settings.target == home / "n/memory/ladybug.lbug"
    assert settings.log_file == home / "n/memory/migration.log"
    assert settings.origin("source") == settings.origin("log_file") == f"environment {name}"
    assert settings.origin("target") == f"chosen: nima-core opens it ({name} names its home)"


def test_nima_home_wins_over_nima_data_dir(home: Path, env: dict[str, str]) -> None:
    settings = load({}, env | {"NIMA_HOME": "~/a", "NIMA_DATA_DIR": "~/b"})
    assert settings.source == home / "a/memory/graph.sqlite"


def test_an_empty_variable_counts_as_not_set(home: Path, env: dict[str, str]) -> None:
    settings = load({}, env | {"NIMA_HOME": "", "NIMA_DB_PATH": "", "NIMA_LADYBUG_DB": ""})
    assert settings.source == home / ".nima/memory/graph.sqlite"
    assert settings.target == home / ".nima/memory/ladybug.lbug"
    assert settings.origin("source") == "default"


def test_a_target_stands_beside_a_source_that_was_named(home: Path, env: dict[str, str], toml: Toml) -> None:
    typed = load({"source": "~/x/my.sqlite"}, env)
    by_environment = load({}, env | {"NIMA_DB_PATH": "~/x/my.sqlite"})
    by_file = load({}, env | {"NIMA_HOME": "~/n"}, toml('[source]\npath = "~/x/my.sqlite"\n'))
    for settings in (typed, by_environment, by_file):
        assert settings.source == home / "x/my.sqlite"
        assert settings.target == home / "x/graph.ladybug"
        assert settings.log_file == home / "x/migration.log"
        assert settings.origin("target") == settings.origin("log_file") == "beside the source"


def test_a_named_target_stays_when_only_the_source_moves(home: Path, env: dict[str, str]) -> None:
    settings = load({"source": "/x/my.sqlite"}, env | {"NIMA_LADYBUG_DB": "~/l.lbug"})
    assert settings.target == home / "l.lbug"
    assert settings.origin("target") == "environment NIMA_LADYBUG_DB"


def test_an_unknown_home_is_a_usage_error(env: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no such home directory"):
        load({"source": "~nobody-of-this-name/x"}, env)


# Layers


def test_each_layer_wins_over_the_ones_below(home: Path, env: dict[str, str], toml: Toml) -> None:
    path = toml('[source]\npath = "/t.sqlite"\n\n[batch]\nsize = 200\n')
    openclaw_at(home, ASKING)
    assert load({}, env).batch_size == 500

    settings = load({}, env, path)
    assert (settings.batch_size, settings.origin("batch_size")) == (200, f"{path} line 5")
    assert (settings.source, settings.origin("source")) == (Path("/t.sqlite"), f"{path} line 2")

    settings = load({"auto": True}, env, path)
    place = '~/.openclaw/openclaw.json plugins.entries["nima-memory"].config.database.migration_batch_size'
    assert (settings.batch_size, settings.origin("batch_size")) == (300, place)
    assert settings.origin("auto") == "command line"

    settings = load({"auto": True}, env | {"NIMA_DB_PATH": "/e.sqlite"}, path)
    assert (settings.source, settings.origin("source")) == (Path("/e.sqlite"), "environment NIMA_DB_PATH")

    settings = load({"auto": True, "batch_size": 50, "source": Path("/c.sqlite")}, env | {"NIMA_DB_PATH": "/e"}, path)
    assert (settings.batch_size, settings.origin("batch_size")) == (50, "command line")
    assert (settings.source, settings.origin("source")) == (Path("/c.sqlite"), "command line")


def test_the_default_file_is_read_when_it_is_there(home: Path, env: dict[str, str]) -> None:
    toml_file.DEFAULT_FILE.parent.mkdir()
    toml_file.DEFAULT_FILE.write_text("[batch]\nsize = 7\n")
    settings = load({}, env)
    assert (settings.batch_size, settings.origin("batch_size")) == (7, f"{home}/etc/nimad.toml line 2")


def test_an_option_that_is_none_was_not_typed(env: dict[str, str]) -> None:
    settings = load({"batch_size": None, "source": None, "dry_run": True}, env)
    assert (settings.batch_size, settings.dry_run) == (500, True)
    assert settings.origin("source") == settings.origin("batch_size") == "default"


def test_openclaws_file_is_left_alone_without_auto(home: Path, env: dict[str, str]) -> None:
    openclaw_at(home, "{ not json")
    assert load({"auto": False}, env).openclaw is None


def test_auto_keeps_what_openclaw_says(home: Path, env: dict[str, str]) -> None:
    elsewhere = home / "oc.json"
    elsewhere.write_text(ASKING)
    settings = load({"auto": True}, env | {"OPENCLAW_CONFIG_PATH": "~/oc.json"})
    assert settings.openclaw == OpenClaw(elsewhere, "ladybugdb", auto_migrate=True, batch_size=300)
    assert settings.openclaw_file == elsewhere


# Settings


def test_a_source_is_enough_for_python(home: Path) -> None:
    settings = Settings(source=Path("~/x/g.sqlite"))
    assert settings.source == home / "x/g.sqlite"
    assert settings.target == home / "x/graph.ladybug"
    assert settings.log_file == home / "x/migration.log"
    assert settings.openclaw_file == home / ".openclaw/openclaw.json"
    assert (settings.batch_size, settings.verify, settings.log_level) == (500, Verify.FULL, "INFO")
    assert hash(settings) == hash(dataclasses.replace(settings))


def test_words_become_what_they_mean(env: dict[str, str]) -> None:
    settings = load({"verify": "counts", "log_level": "debug"}, env)
    assert settings.verify is Verify.COUNTS
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0; the default is 500"),
        ({"start_offset": -1}, "--start-offset must be at least 0, not -1; the default is 0"),
        ({"verify": "some"}, "--verify must be one of full, counts, none, not 'some'"),
        ({"log_level": "LOUD"}, "--log-level must be one of DEBUG, INFO, WARN, ERROR, not 'LOUD'"),
        (
            {"max_batch_size": 300},
            (
                "--batch-size is 500 (default), above the max batch size of 300 (command line); "
                "lower the one or raise the other"
            ),
        ),
        (
            {"fixed_batch": True, "batch_size": 100, "max_batch_size": 300},
            (
                "--fixed-batch keeps every batch at 100 nodes, but the max batch size is 300 (command line); "
                "leave one of the two out"
            ),
        ),
        (
            {"source": "/x/a", "target": "/x/a"},
            "--target is the same file as the source, /x/a; name another file",
        ),
        (
            {"source": "/x/a", "log_file": "/x/a"},
            "--log-file is the same file as the source, /x/a; name another file",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_option(
    env: dict[str, str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(options, env)
    assert str(caught.value) == message


def test_a_link_to_the_source_is_no_target(home: Path, env: dict[str, str]) -> None:
    (home / "link").symlink_to(home / "a")
    with pytest.raises(UsageError, match="NIMA_LADYBUG_DB is the same file as the source"):
        load({"source": home / "a"}, env | {"NIMA_LADYBUG_DB": "~/link"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[batch]\nsize = 0\n", "line 2: batch size must be at least 1, not 0; the default is 500"),
        ('\n[verify]\nlevel = "all"\n', "line 3: verify must be one of full, counts, none, not 'all'"),
        (
            "[batch]\nmax = 300\n",
            (
                "line 2: batch size is 500 (default), above the max batch size of 300 (FILE line 2); "
                "lower the one or raise the other"
            ),
        ),
        (
            '[source]\npath = "/a"\n[target]\npath = "/a"\n',
            "line 4: target is the same file as the source, /a; name another file",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_line(
    env: dict[str, str], toml: Toml, text: str, message: str
) -> None:
    path = toml(text)
    with pytest.raises(ConfigurationError) as caught:
        load({}, env, path)
    assert str(caught.value) == f"{path} {message}".replace("FILE", str(path))


def test_what_was_typed_against_a_file_is_a_usage_error(env: dict[str, str], toml: Toml) -> None:
    path = toml("[batch]\nmax = 600\n")
    with pytest.raises(UsageError) as caught:
        load({"batch_size": 700}, env, path)
    assert f"above the max batch size of 600 ({path} line 2)" in str(caught.value)
    with pytest.raises(UsageError, match="--fixed-batch keeps every batch at 500 nodes"):
        load({"fixed_batch": True}, env, path)


# nimad.toml


def test_every_key_of_the_file_is_read(env: dict[str, str], toml: Toml) -> None:
    text = """
source.path = "/s"
target = { path = "/t" }
[batch]  # how much at once
size = 10
max = 10
"fixed" = true
[verify]
level = "none"
[log]
file = "~/l"
level = "WARN"
"""
    path = toml(text)
    settings = load({}, env, path)
    assert (settings.source, settings.target) == (Path("/s"), Path("/t"))
    assert (settings.batch_size, settings.max_batch_size, settings.fixed_batch) == (10, 10, True)
    assert (settings.verify, settings.log_level) == (Verify.NONE, "WARN")
    lines = {name: settings.origin(name) for name in ("source", "target", "fixed_batch", "log_file")}
    expected = {"source": 2, "target": 3, "fixed_batch": 7, "log_file": 11}
    assert lines == {name: f"{path} line {line}" for name, line in expected.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[log]\n\n[batch]\nsiez = 5\n", "unknown key 'siez' in [batch], line 4; did you mean 'size'?"),
        ("[batch]\nx = 5\n", "unknown key 'x' in [batch], line 2; the keys are size, max, fixed"),
        ("# hello\n[bacth]\nsize = 5\n", "unknown table [bacth], line 2; did you mean 'batch'?"),
        (
            "x = 5\n",
            "unknown key 'x', line 1; "
            "the tables are source, target, batch, limits, engine, reader, vector, verify, service, "
            "metrics, hooks, log",
        ),
        ("size = 5\n", "unknown key 'size', line 1; did you mean 'size' in [batch]?"),
        ("batch_size = 100\n", "unknown key 'batch_size', line 1; did you mean 'size' in [batch]?"),
        ("max-memory = '1G'\n", "unknown key 'max-memory', line 1; did you mean 'memory' in [limits]?"),
        ("level = 'full'\n", "unknown key 'level', line 1; did you mean 'level' in [verify] or 'level' in [log]?"),
        ("\nbatch = 5\n", "'batch', line 2, must be a table; write [batch]"),
        ('[batch]\n# size = 1\nsize = "5"\n', "'size' in [batch], line 3, must be a whole number, not '5'"),
        ("[batch]\nsize = true\n", "'size' in [batch], line 2, must be a whole number, not True"),
        ("[batch]\nfixed = 1\n", "'fixed' in [batch], line 2, must be true or false, not 1"),
        ('[source]\npath = ""\n', "'path' in [source], line 2, must be text in quotes, not ''"),
        (
            "[batch]\nsize 5\n",
            "line 2, column 6: Expected '=' after a key in a key/value pair; correct it and run again",
        ),
        ("[batch]\nsize =", "line 2, column 7: Invalid value; correct it and run again"),
        (
            "[batch",
            "line 1, column 7: Expected ']' at the end of a table declaration; correct it and run again",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(env: dict[str, str], toml: Toml, text: str, message: str) -> None:
    path = toml(text)
    with pytest.raises(ConfigurationError) as caught:
        load({}, env, path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_was_named_must_be_there(home: Path, env: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: no such file"):
        load({}, env, home / "none.toml")
    with pytest.raises(ConfigurationError, match="is a folder"):
        load({}, env, home)


def test_a_file_that_may_not_be_read_is_not_allowed(
    env: dict[str, str], toml: Toml, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml("")

    # The tests may run as root, whom no file mode keeps out.
    def refuse(path: Path, _: int, **__: bool) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bounded, "read", refuse)
    with pytest.raises(NotAllowedError, match=str(path)):
        load({}, env, path)


def test_a_file_in_another_encoding_is_named_with_the_place(home: Path, env: dict[str, str]) -> None:
    path = home / "nimad.toml"
    path.write_bytes(b"[log]\nfile = '\xe9'\n")
    with pytest.raises(ConfigurationError, match="line 2, column 9: not UTF-8"):
        load({}, env, path)


# OpenClaw's file


def test_comments_and_trailing_commas_are_understood(home: Path) -> None:
    path = openclaw_at(home, ASKING)
    openclaw = read_openclaw(path)
    assert openclaw == OpenClaw(path, "ladybugdb", auto_migrate=True, batch_size=300)
    assert openclaw.asks_for_migration
    assert openclaw.why_not is None
    assert path.read_text() == ASKING


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{}", 'config.database.backend is not set; it must be "ladybugdb"'),
        ("{config: {database: null}}", 'config.database.backend is not set; it must be "ladybugdb"'),
        ("{config: {database: {backend: 'sqlite'}}}", 'config.database.backend is "sqlite", not "ladybugdb"'),
        ("{config: {database: {backend: 'ladybugdb'}}}", "config.database.auto_migrate is not true"),
        ("{database: {backend: 'sqlite'}}", 'database.backend is "sqlite", not "ladybugdb"'),
        ("{database: {backend: 'ladybugdb'}}", "config.database.auto_migrate is not true"),
        ("{database: {backend: 'ladybugdb', auto_migrate: false}}", "database.auto_migrate is not true"),
        (
            "{database: {backend: 'ladybugdb', auto_migrate: true}, config: {database: {backend: 'sqlite'}}}",
            'config.database.backend is "sqlite", not "ladybugdb"',
        ),
        (
            "{enabled: false, database: {backend: 'ladybugdb', auto_migrate: true}}",
            'plugins.entries["nima-memory"].enabled is false',
        ),
    ],
)
def test_no_migration_without_a_reason(home: Path, entry: str, reason: str) -> None:
    openclaw = read_openclaw(openclaw_at(home, f"{{plugins: {{entries: {{'nima-memory': {entry}}}}}}}"))
    assert not openclaw.asks_for_migration
    assert openclaw.why_not == reason


def test_each_value_comes_from_the_first_place_that_has_it(home: Path) -> None:
    old = "{backend: 'sqlite', auto_migrate: true, migration_batch_size: 7}"
    new = "{backend: 'ladybugdb', migration_batch_size: null}"
    entry = f"{{database: {old}, config: {{database: {new}}}}}"
    found = read_openclaw(openclaw_at(home, f"{{plugins: {{entries: {{'nima-memory': {entry}}}}}}}"))
    assert (found.backend, found.auto_migrate, found.batch_size) == ("ladybugdb", True, 7)
    assert found.origin("backend") == 'plugins.entries["nima-memory"].config.database.backend'
    assert found.origin("auto_migrate") == 'plugins.entries["nima-memory"].database.auto_migrate'
    assert found.origin("migration_batch_size") == 'plugins.entries["nima-memory"].database.migration_batch_size'
    assert found.asks_for_migration


@pytest.mark.parametrize(
    ("plugins", "reason"),
    [
        ("slots: {memory: 'memory-core'}", 'plugins.slots.memory is "memory-core", not "nima-memory"'),
        ("slots: {memory: ' none '}", 'plugins.slots.memory is "none", not "nima-memory"'),
        ("slots: {memory: ' nima-memory '}", None),
        ("slots: {memory: ''}", None),
        ("slots: {contextEngine: 'another'}", None),
        ("enabled: false, slots: {memory: 'nima-memory'}", "plugins.enabled is false"),
        ("deny: ['x', 'nima-memory']", 'plugins.deny has "nima-memory"'),
        ("allow: ['x']", 'plugins.allow does not have "nima-memory"'),
        ("allow: ['x', 'nima-memory']", None),
        ("allow: []", None),
        ("allow: ['x'], slots: {memory: 'nima-memory'}", None),
        # What OpenClaw would refuse is for OpenClaw to judge, where it is not the plugin's.
        ("allow: 'x', deny: {}, slots: 5, enabled: 'no'", None),
    ],
)
def test_a_plugin_that_openclaw_does_not_run_is_not_asked_for(home: Path, plugins: str, reason: str | None) -> None:
    entry = "{config: {database: {backend: 'ladybugdb', auto_migrate: true}}}"
    found = read_openclaw(openclaw_at(home, f"{{plugins: {{{plugins}, entries: {{'nima-memory': {entry}}}}}}}"))
    assert (found.why_not, found.enabled) == (reason, reason is None)


def test_a_missing_file_asks_for_nothing(home: Path) -> None:
    openclaw = read_openclaw(home / "none.json")
    assert not openclaw.asks_for_migration
    assert openclaw.why_not == f"{home}/none.json does not exist"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n  // c\n  a: x }", 'line 3, column 6: unexpected "x"'),
        ('{\n  "plugins": {\n', "line 3, column 1: unexpected end of input"),
        ('{ "a": "b\n" }', "line 1, column 10: unexpected end of line"),
        ("", "line 1, column 1: the file is empty"),
        ("// nothing\n", "line 2, column 1: unexpected end of input"),
        ("\n[1]", "line 1, column 1: the file must be an object, not a list"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_column(home: Path, text: str, message: str) -> None:
    path = openclaw_at(home, text)
    with pytest.raises(ConfigurationError) as caught:
        read_openclaw(path)
    assert str(caught.value) == f"{path}: {message}; correct it and run again"


def test_a_file_nested_without_end_is_refused(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        read_openclaw(openclaw_at(home, "[" * 100_000))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "auto_migrate: true",
            'auto_migrate: "yes"',
            '5, column 51: {}.config.database.auto_migrate must be true or false, not "yes"',
        ),
        (": 300", ": 0", "5, column 71: {}.config.database.migration_batch_size must be at least 1, not 0"),
        (
            ": 300",
            ": true",
            "5, column 71: {}.config.database.migration_batch_size must be a whole number, not true",
        ),
        ('"ladybugdb"', "[]", "5, column 29: {}.config.database.backend must be text in quotes, not a list"),
        (
            "config: {",
            "/* database: */ enabled: 1, config: {",
            "5, column 23: {}.enabled must be true or false, not 1",
        ),
        ("database: {", "database: 'no', x: {", '5, column 17: {}.config.database must be an object, not "no"'),
        ("config: {", "database: [], x: {", "5, column 7: {}.database must be an object, not a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_key(home: Path, old: str, new: str, message: str) -> None:
    # A neighbour with the same keys must not be blamed.
    text = ASKING.replace("entries: {", "entries: { other: { enabled: 1, database: { backend: 1 } },")
    path = openclaw_at(home, text.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        read_openclaw(path)
    named = message.format('plugins.entries["nima-memory"]')
    assert str(caught.value) == f"{path}: line {named}; correct it and run again"


def test_the_file_that_is_installed_shows_every_setting_with_its_default(env: dict[str, str], toml: Toml) -> None:
    text = (Path(__file__).parents[3] / "etc/nima/nimad.toml").read_text(encoding="utf-8")
    assert dataclasses.replace(load({}, env, toml(text)), config_file=None) == load({}, env), "as it comes: nothing"
    whole = re.sub(r"(?m)^#(?=\w)", "", text)
    shown = {(table, key) for table, keys in tomllib.loads(whole).items() for key in keys}
    assert shown == {(table, key) for table, keys in toml_file.TABLES.items() for key in keys}
    settings, default = load({}, env, toml(whole)), load({}, env)
    without_default = {"also", "max_batch_size", "max_memory", "engine_python", "reader_python", "vector_extension"}
    without_default |= {"metrics_file", *HOOKS}
    for name in {name for keys in toml_file.TABLES.values() for name, _ in keys.values()} - without_default:
        assert getattr(settings, name) == getattr(default, name), name
    assert all(getattr(default, name) is None for name in without_default)


def test_a_hook_is_a_list_of_words_and_metrics_have_the_name_that_is_read(env: dict[str, str], toml: Toml) -> None:
    settings = load({}, env, toml('[hooks]\non_failure = ["mail", "-s", "a b"]\n[metrics]\nfile = "~/m.prom"\n'))
    assert (settings.on_failure, settings.on_complete) == (("mail", "-s", "a b"), None)
    assert settings.metrics_file == Path(env["HOME"]) / "m.prom"
    for text, message in {
        '[hooks]\non_failure = "mail me"\n': "'on_failure' in [hooks], line 2, must be a list of words in quotes",
        '[hooks]\non_failure = ["a\\u0000b"]\n': "line 2: on failure must begin with the name of a program, not 'a",
        '[metrics]\nfile = "/tmp/metrics"\n': "line 2: metrics file must end in '.prom', all that node_exporter reads",
    }.items():
        with pytest.raises(ConfigurationError) as caught:
            load({}, env, toml(text))
        assert message in str(caught.value)
