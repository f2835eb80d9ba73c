"""What a run is asked to do: every layer, every origin, and the words for what cannot be."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from test_config import Toml, env, home, openclaw_at, toml

__all__ = ["env", "home", "toml"]  # fixtures


def test_reading_the_settings_brings_in_nothing_heavy(env: dict[str, str]) -> None:
    code = (
        "import sys; from nimad.config import load; load({}, dict(HOME='/nowhere'));"
        "print([n for n in ('json5', 'pyarrow', 'ladybug', 'click', 'sqlite3') if n in sys.modules])"
    )
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_command_prints_what_holds_and_why(env: dict[str, str], toml: Toml) -> None:
    path = toml('[batch]\nsize = 7\n[target]\nalso = ["ladybug.lbug"]\n')
    words = [sys.executable, "-m", "nimad", "config", "--config", str(path)]
    environment = os.environ | env | {"NIMA_DB_PATH": "/somewhere/my.sqlite"}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    lines = {line.split(" #")[0].rstrip(): line.rpartition("# ")[2] for line in said.splitlines()}
    assert lines["size = 7"] == f"{path} line 2"
    assert lines['also = ["ladybug.lbug"]'] == f"{path} line 4"
    assert lines['path = "/somewhere/my.sqlite"'] == "environment NIMA_DB_PATH"
    assert lines['path = "/somewhere/graph.ladybug"'] == "beside the source"
    assert lines["#max ="] == "default"
    facts = json.loads(subprocess.run([*words, "--json"], env=environment, capture_output=True, check=True).stdout)
    assert {"table": "batch", "key": "size", "value": 7, "origin": f"{path} line 2"} in facts
    # And what it prints is a settings file that says the same.
    assert tomllib.loads(said)["batch"]["size"] == 7


def test_the_command_has_what_openclaw_says_with_the_keys_that_say_it(home: Path, env: dict[str, str]) -> None:
    entry = "{database: {backend: 'sqlite', migration_batch_size: 7}, config: {database: {backend: 'ladybugdb'}}}"
    path = openclaw_at(home, f"{{plugins: {{entries: {{'nima-memory': {entry}}}}}}}")
    keys = f'{path} plugins.entries["nima-memory"]'
    words = [sys.executable, "-m", "nimad", "config"]
    said = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=True).stdout
    lines = {line.split(" #")[0].rstrip(): line.rpartition("# ")[2] for line in said.splitlines()}
    assert lines['#backend = "ladybugdb"'] == f"{keys}.config.database.backend"
    assert lines["#migration_batch_size = 7"] == f"{keys}.database.migration_batch_size"
    assert lines["#auto_migrate ="] == "default"
    assert tomllib.loads(said)["batch"]["size"] == 500, "which is OpenClaw's for --auto alone"
    done = subprocess.run([*words, "--json"], env=os.environ | env, capture_output=True, text=True, check=True)
    wanted = {"table": "openclaw", "key": "backend", "value": "ladybugdb", "origin": f"{keys}.config.database.backend"}
    assert wanted in json.loads(done.stdout)
    path.write_text("{")
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=True)
    assert "line 1, column 2: unexpected end of input; correct it" in done.stdout


def test_the_command_names_the_line_of_a_mistake(toml: Toml) -> None:
    path = toml("[batch]\nsiez = 7\n")
    words = [sys.executable, "-m", "nimad", "config", "--config", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"{path}: unknown key 'siez' in [batch], line 2; did you mean 'size'?" in done.stderr
