"""The Debian packages: what they depend on, carry and say. That they install and migrate: tests/system/deb.py."""

import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import click
import described
import manual
import pytest
import releases
from releases import CHECKOUT, PROCESSORS, RELEASES

import build
from nimad.cli.main import cli
from nimad.engines import packages

CONTROL = (CHECKOUT / "packaging/debian/control").read_text(encoding="utf-8")
WHEN = datetime(2026, 1, 2, tzinfo=UTC)


def dependencies() -> dict[str, str]:
    """By name: the lowest release that pyproject.toml asks for."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.match(r"([\w-]+)>=([\d.]+)", each) for each in project["dependencies"])
    return {match[1]: match[2] for match in found if match}


def test_each_dependency_comes_from_debian_or_is_carried() -> None:
    from_debian = dict(re.findall(r"python3-([\w-]+) \(>= ([\d.]+)\)", CONTROL))
    wanted = dependencies()
    assert {name: least for name, least in wanted.items() if name not in releases.VENDORED} == from_debian


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_wheel_is_pinned_by_its_hash(release: releases.Release, processor: releases.Processor) -> None:
    text = releases.pins(release, processor).read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE))
    assert pinned.keys() == set(releases.VENDORED)
    assert packages.in_range(pinned["ladybug"])
    assert f"real-ladybug=={pinned['real-ladybug']}" == packages.REQUIREMENTS["real_ladybug"]


def test_the_list_of_changes_becomes_debians() -> None:
    changes = (
        "# Changes\n\n## 0.2.0 (unreleased)\n\n- New and\n  shiny.\n- Other.\n\n## 0.1.0 (2026-01-01)\n\n- First.\n"
    )
    bookworm = RELEASES[0]
    assert build.changelog(changes, "0.2.0+deb12", bookworm, int(WHEN.timestamp())) == (
        "nima-migrate (0.2.0+deb12) bookworm; urgency=medium\n\n  * New and shiny.\n  * Other.\n\n"
        " -- The nimad authors <nimad@nimad.invalid>  Fri, 02 Jan 2026 00:00:00 +0000\n\n"
        "nima-migrate (0.1.0+deb12) bookworm; urgency=medium\n\n  * First.\n\n"
        " -- The nimad authors <nimad@nimad.invalid>  Thu, 01 Jan 2026 00:00:00 +0000\n"
    )


def test_the_manual_has_every_option_of_every_command() -> None:
    page = manual.pages("1", WHEN)["nimad.1"].replace("\\-", "-")
    for name, command in described.inside(cli, click.Context(cli)):
        section = page.split(f".SS nimad {name}")[1].split("\n.S")[0]
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert [each.opts[0] for each in options if not each.hidden and each.opts[0] not in section] == []


def test_the_manual_has_every_setting() -> None:
    page = manual.pages("1", WHEN)["nimad.toml.5"]
    file = (CHECKOUT / "etc/nima/nimad.toml").read_text(encoding="utf-8")
    assert page.count(".TP") == len(re.findall(r"^#\w+ = ", file, re.MULTILINE)) > 10
    assert page.count(".SH [") == len(re.findall(r"^\[", file, re.MULTILINE))


def test_a_32_bit_machine_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert "this is a 32-bit one" in packages.missing()


def test_what_the_package_carries_comes_back_with_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr/lib/nima-migrate")
    assert packages.missing().endswith("Install: sudo apt install --reinstall ./nima-migrate_*.deb")
    assert "pip" not in packages.install_newest("pyarrow") + packages.uninstall("ladybug-core")
    assert "env -C / /agent/python -m pip" in packages.install("real_ladybug", "/agent/python")


def test_the_environment_of_the_package_is_one_to_python(tmp_path: Path) -> None:
    """`home` and the link are what Python goes by; the link leads out of the package."""
    (tmp_path / build.HOME).mkdir(parents=True)
    build.make_environment(tmp_path / build.HOME, RELEASES[0])
    link = tmp_path / build.HOME / "bin/python3"
    assert Path("/", build.HOME, "bin", link.readlink()).resolve() == Path("/usr/bin/python3.11").resolve()
