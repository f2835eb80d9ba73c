"""Layers of configuration: later layers win, and each value keeps its origin."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from nimad.config import defaults, target_names, toml_file, variables
from nimad.config.defaults import Given
from nimad.config.openclaw import OpenClaw, read_openclaw
from nimad.config.settings import NO_READER, Settings
from nimad.config.target_names import Surroundings, TargetNames

_PATHS: Final = (
    *("source", "target", "log_file", "openclaw_file"),
    *("engine_python", "reader_python", "vector_extension", "metrics_file"),
)
_DATA_HOMES: Final = (
    defaults.DEFAULT,
    f"{defaults.ENVIRONMENT}NIMA_HOME",
    f"{defaults.ENVIRONMENT}NIMA_DATA_DIR",
)


def load(options: Mapping[str, Any], env: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """Given what was typed and the environment, return the settings of a run.

    Defaults < ``nimad.toml`` < OpenClaw's file < environment < command line. OpenClaw's file is read
    only when ``options["auto"]`` is true. An option that is None was not typed.
    """
    home = defaults.home_of(env)
    typed: Given = {name: (value, defaults.COMMAND_LINE) for name, value in options.items() if value is not None}
    config_file = None if config_file is None else defaults.expand(config_file, home)
    given = defaults.defaults(env, home) | toml_file.read(config_file)
    named = defaults.from_environment(env)
    above = variables.settle(named, home) | typed
    openclaw = None
    if options.get("auto"):
        path, _ = (given | above)["openclaw_file"]
        openclaw = read_openclaw(defaults.expand(path, home))
        given |= _from_openclaw(openclaw, home)
    given |= above
    given |= _beside_target(given, home)
    values: dict[str, Any] = {
        name: defaults.expand(value, home) if name in _PATHS and str(value) != str(NO_READER) else value
        for name, (value, _) in given.items()
    }
    names = _names(values, given, env, home)
    origins = _origins(given)
    if names.why and values.get("target") != names.file:
        origins["target"] = names.why
    notes = variables.notes(named, given, home)
    values |= {"target": names.file, "names": names}
    return Settings(**values, openclaw=openclaw, config_file=config_file, origins=origins, notes=notes)


def _beside_target(given: Given, home: Path) -> Given:
    """The memory that a typed target lies beside, where nothing else names one.

    A folder may be a copy of another one. Its target then tells of the memory there, which is not to be written to.
    """
    (_, source), (target, typed) = given["source"], given.get("target", (None, ""))
    if typed != defaults.COMMAND_LINE or source not in _DATA_HOMES:
        return {}
    place = defaults.expand(target, home)
    beside = place.with_name(defaults.SOURCE_NAME)
    return {"source": (beside, defaults.BESIDE_TARGET)} if beside.is_file() and beside != place else {}


def _names(values: Mapping[str, Any], given: Given, env: Mapping[str, str], home: Path) -> TargetNames:
    """The target and its second name. The variable names the agent's file, which need not be the target."""
    _, origin = given.get("target", (None, ""))
    by_variable = origin == f"{defaults.ENVIRONMENT}{target_names.VARIABLE}"
    asked = None if by_variable else values.get("target")
    return target_names.choose_names(values["source"], asked, Surroundings(home, env))


def _from_openclaw(openclaw: OpenClaw, home: Path) -> Given:
    if openclaw.batch_size is None:
        return {}
    origin = f"{defaults.shown(openclaw.path, home)} {openclaw.origin('migration_batch_size')}"
    return {"batch_size": (openclaw.batch_size, origin)}


def _origins(given: Given) -> dict[str, str]:
    _, source = given["source"]
    # A default source takes its folder, and so its neighbours, from the data home.
    beside = source if source in _DATA_HOMES else defaults.BESIDE_SOURCE
    origins = {field.name: defaults.DEFAULT for field in fields(Settings)}
    origins |= {"target": beside, "log_file": beside}
    return origins | {name: origin for name, (_, origin) in given.items()}
