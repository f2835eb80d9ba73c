"""OpenClaw's file as the service watches it: read when it changed, also while it is being written."""

import os
from dataclasses import replace

from nimad.config import OpenClaw, Settings, read_openclaw
from nimad.config.defaults import COMMAND_LINE
from nimad.errors import NimadError

_Stamp = tuple[int, int, int] | None


class OpenClawFile:
    """OpenClaw's file. One with comments takes seconds to parse on a Pi, so each state of it is read once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: tuple[_Stamp, OpenClaw | NimadError] | None = None

    def content(self) -> OpenClaw:
        """Raises `NimadError` where it cannot be read as what it should be."""
        stamp = self._stamp()
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, self._content()
        found = self._read[1]
        if isinstance(found, NimadError):
            raise found
        return found

    def asked(self) -> Settings:
        """The settings of a run that it asks for, or would ask for. Raises as `content`."""
        content, settings = self.content(), self._settings
        size, origins = settings.batch_size, settings.origins
        if content.batch_size is not None and settings.origin("batch_size") != COMMAND_LINE:
            origin = f"{content.path} {content.origin('migration_batch_size')}"
            size, origins = content.batch_size, {**origins, "batch_size": origin}
        return replace(settings, auto=True, openclaw=content, batch_size=size, origins=origins)

    def _content(self) -> OpenClaw | NimadError:
        try:
            return read_openclaw(self._settings.openclaw_file)
        except NimadError as error:
            return error

    def _stamp(self) -> _Stamp:
        try:
            status = os.stat(self._settings.openclaw_file)  # noqa: PTH116 - nothing of it is a path's business
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_ctime_ns  # which chmod moves too
