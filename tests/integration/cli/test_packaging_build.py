"""The Debian packages: what they depend on, carry and say. That they install and migrate: tests/system/deb.py."""

import subprocess
from pathlib import Path

import pytest

import build


def test_a_package_that_has_grown_too_large_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    fields = {"Package": "large", "Version": "1", "Architecture": "all", "Maintainer": "x <x@y.invalid>"}
    fields |= {"Description": "large", "Installed-Size": "130000"}
    control.write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
    package = tmp_path / "large.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", control.parents[1], package], check=True)
    build.check_size(package)
    monkeypatch.setattr(build, "LARGEST_INSTALLED", 133 * build.MB)
    with pytest.raises(SystemExit, match=r"large.deb has 0.0 MB, and 133.1 MB when it is installed; .* 45 and 133$"):
        build.check_size(package)
