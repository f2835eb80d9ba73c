"""The command to type next, by the status of a migration."""

from nimad.config import Settings, command
from nimad.diagnostics.migration_status import FINISHED, UNFINISHED, Evidence, MigrationStatus
from nimad.state.quarantine_summary import QuarantineSummary


def steps(scene: Evidence, stand: MigrationStatus, tally: QuarantineSummary | None) -> list[tuple[str, str]]:
    """What to do next, as words and the command that does it."""
    settings, target = scene.settings, scene.files.target
    replaces = stand in UNFINISHED and scene.told.get("replaces")  # else the target that is there counts as complete
    migrate = command.migrate(settings, *(["--replace"] if replaces else []))
    resume = command.line("resume", "--target", target)
    go_on = ("Go on with:", migrate)
    if stand is MigrationStatus.PAUSED:
        return (
            [("Go on with:", resume)] if scene.holder or scene.service else [("Go on with:", f"{resume} && {migrate}")]
        )
    if stand in FINISHED:
        return _steps_of_finished(scene, tally)
    if stand is MigrationStatus.NOTHING:
        return _steps_from_nothing(settings)
    if stand is MigrationStatus.UNTOLD:
        return [("See what it holds with:", command.line("health", "--source", settings.source, "--target", target))]
    if stand is MigrationStatus.RUNNING:
        return [("Hold it with:", command.line("pause", "--target", target))]
    if stand is MigrationStatus.GONE:
        return [("Put it back, or rebuild it with:", f"{migrate} --replace")]
    return [] if stand is MigrationStatus.WAITING else [go_on]


def _steps_from_nothing(settings: Settings) -> list[tuple[str, str]]:
    if settings.source.exists():
        return [
            ("See what would happen with:", command.migrate(settings, "--dry-run")),
            ("Begin with:", command.migrate(settings)),
        ]
    return [("There is no memory there; name it with:", f"{command.line('status', '--source')} FILE")]


def _steps_of_finished(scene: Evidence, tally: QuarantineSummary | None) -> list[tuple[str, str]]:
    target = scene.files.target
    found = []
    if tally and (tally.entries or tally.lacking):
        found.append(("What was set aside, and why:", command.line("quarantine", "list", "--target", target)))
    health = command.line("health", "--source", scene.settings.source, "--target", target)
    found.append(("Compare it with SQLite:", health))
    return found
