#!/usr/bin/env python3
"""The Debian packages, in pristine booted Debian: installed, upgraded in the middle of a migration, removed, purged.

    python3 tests/system/deb.py [--release bookworm] [--packages DIR]

As root, on amd64. The packages are built first, twice, unless they are named. Each release gets a container with its
own systemd, without a network: what apt needs was fetched before. lintian of the same release looks at the package.
Exit status 0 only if everything is as it should be.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common
from common import run, say
from nspawn import Container

SUITES = {"bookworm": "deb12", "trixie": "deb13"}
NODES = 4_000
SERVICE = "nima-migrate"
#: As on a machine that was just set up: no Python yet.
_PRISTINE = "systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session,procps"
_QUIET = "DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8"
#: Who has a memory: one with the service as it is set up, one with an instance of it, one with her own systemd's.
_PEOPLE = ("pi", "jonas", "maya")
_HOME = "/home/pi/.nima/memory"
#: The commands that speak of the services of the other two.
_OTHERS = {"jonas": ("systemctl", f"{SERVICE}@jonas"), "maya": ("systemctl --user --machine=maya@.host", SERVICE)}
_FEW = 100
#: Small batches, of which there are enough for an upgrade in the middle.
_SETTINGS = "[batch]\\nsize = 100\\nfixed = true\\n"
#: Our names: not those of «minimal» packages.
_OURS = re.compile(r"(?<!mi)nima|ladybug|pyarrow")
_PATIENCE_S, _POLL_S = 600.0, 0.2
#: Where nima-core's plugin is, and the scripts that `nimad setup` puts there.
_PLUGIN = "/home/pi/.openclaw/extensions/nima-memory"
_SCRIPTS = ("health_check.py", "migrate_to_ladybug.py", "nimad_program.py")
#: What stays after a purge: the memory with everything beside it, the plugin's folder, and the user who may own files.
_BESIDE = ("", ".ledger", ".runs.jsonl", ".state.json")
_LEFT = {
    *(f"/home/{name}/.nima" for name in _PEOPLE),
    *(f"/home/{name}/.nima/memory" for name in _PEOPLE),
    *(f"/home/{name}/.nima/memory/migration.log" for name in _PEOPLE),
    *(f"/home/{name}/.nima/memory/graph.{each}" for name in _PEOPLE for each in ("sqlite", "ladybug")),
    *(f"/home/{name}/.nima/memory/ladybug.lbug{each}" for name in _PEOPLE for each in _BESIDE),
    *(_PLUGIN, *(f"{_PLUGIN}/{name}" for name in _SCRIPTS)),
    *(f"{_HOME}/ladybug.lbug.quarantine.jsonl", f"{_HOME}/ladybug.lbug.backup-old"),
}


def main() -> int:
    parser = common.arguments(__doc__)
    parser.add_argument("--release", choices=SUITES, help="test just this one")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="where they are, as `make deb` does  [built here]")
    options = common.parse(parser)
    common.need("systemd-container", "mmdebstrap", "debian-archive-keyring", "debhelper", "dpkg-dev", "binutils")
    suites = [options.release] if options.release else list(SUITES)
    with ThreadPoolExecutor() as pool:
        verdicts = list(pool.map(lambda suite: _test(suite, options), suites))
    well = True
    for suite, checks in zip(suites, verdicts, strict=True):
        say(f"\n{suite}")
        for what, right in checks.items():
            say(f"{'ok ' if right else 'NOT'}  {what}")
        well = well and all(checks.values())
    return 0 if well else 1


def _test(suite: str, options: argparse.Namespace) -> Mapping[str, bool]:
    built = options.build / "packages" / suite
    package = _one(options.packages, suite) if options.packages else _build(suite, options, built)
    disk = _disk(suite, options.build, package)
    began = time.monotonic()
    with Container(disk) as machine, tempfile.TemporaryDirectory(dir=disk.parent) as work:
        checks = _Life(machine, suite, package, Path(work), options.nodes or NODES).checks()
    say(f"{suite}: {time.monotonic() - began:.0f} s in the container")
    began = time.monotonic()
    complaints = _lintian(suite, options.build, package, disk)
    say(f"{suite}: {time.monotonic() - began:.0f} s for lintian")
    if complaints:
        say(complaints)
    checks = {**checks, "lintian has no error and no warning": not complaints}
    if not options.packages:
        again = _build(suite, options, options.build / "packages" / f"{suite}-again")
        checks["a second build has the same bytes"] = again.read_bytes() == package.read_bytes()
    return checks


def _build(suite: str, options: argparse.Namespace, folder: Path) -> Path:
    """The package for this machine, as `make deb` makes it."""
    shutil.rmtree(folder, ignore_errors=True)
    script = options.source / "packaging" / "build.py"
    run(sys.executable, script, "--only", f"{suite}-amd64", "--dist", folder)
    return _one(folder, suite)


def _one(folder: Path, suite: str) -> Path:
    found = list(folder.glob(f"*+{SUITES[suite]}_amd64.deb"))
    if len(found) != 1:
        raise SystemExit(f"{folder}: there has to be one package for {suite}; make it with: make deb")
    return Path(found[0])


def _disk(suite: str, build: Path, package: Path) -> Path:
    """Pristine Debian, in which apt has what the package depends on at hand."""
    depends = run("dpkg-deb", "-f", package, "Depends", "Recommends")
    folder, parts = build / f"deb-{suite}", [suite, _PRISTINE, depends, *_PEOPLE]
    root = folder / "root"
    if common.rebuilt(folder, parts) is None:
        return root
    say(f"Building the disk of {suite}")
    choice = ["--variant=minbase", f"--include={_PRISTINE}", f"--keyring={common.KEYRING}"]
    run(*common.BOOTSTRAP, *choice, suite, root, common.mirror())
    shutil.copy(package, root / "root" / package.name)
    _chroot(root, f"apt-get -q update && apt-get -qy install --download-only /root/{package.name}")
    (root / "root" / package.name).unlink()
    _chroot(root, f"for name in {' '.join(_PEOPLE)}; do useradd --create-home --shell /bin/sh $name; done")
    _chroot(root, "rm -f /etc/machine-id && : >/etc/machine-id")
    _chroot(root, "systemctl mask systemd-networkd systemd-resolved apt-daily.timer apt-daily-upgrade.timer")
    common.built(folder, parts)
    return root


def _chroot(root: Path, script: str) -> str:
    return run(
        "chroot",
        root,
        "/usr/bin/env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "sh",
        "-c",
        f"export {_QUIET}; {script}",
    )


def _lintian(suite: str, build: Path, package: Path, disk: Path) -> str:
    """What lintian of this release, installed on a copy of the disk, complains about."""
    folder, parts = build / f"lintian-{suite}", [suite]
    root = folder / "root"
    if common.rebuilt(folder, parts) is not None:
        say(f"Building the disk of {suite} with lintian")
        run("cp", "-a", disk, root)
        _chroot(root, "apt-get -qy install --no-install-recommends lintian")
        common.built(folder, parts)
    shutil.copy(package, root / "root" / package.name)
    try:
        return _chroot(root, f"lintian --allow-root --tag-display-limit 0 /root/{package.name} 2>&1 || true").strip()
    finally:
        (root / "root" / package.name).unlink()


class _Life:
    """The package's life in one machine, step by step; each notes what it found."""

    def __init__(self, machine: Container, suite: str, package: Path, work: Path, nodes: int) -> None:
        self._machine, self._suite, self._nodes = machine, suite, nodes
        self._package, self._previous = package, _as_previous(package, work)
        self._found: dict[str, bool] = {}

    def checks(self) -> Mapping[str, bool]:
        for step in (
            self._install,
            self._set_up,
            self._upgrade,
            self._complete,
            self._cut_off,
            self._remove,
            self._reinstall,
            self._purge,
        ):
            began = time.monotonic()
            step()
            say(f"{self._suite}: {step.__name__.strip('_')} {time.monotonic() - began:.1f} s")
        return self._found

    def _note(self, what: str, right: bool, shown: object = "") -> None:
        self._found[what] = right
        if not right:
            say(f"{self._suite}: NOT {what}\n{shown}")

    def _run(self, script: str) -> str:
        return self._machine.run(script)

    def _holds(self, script: str) -> bool:
        return self._machine.attempt(script).status == 0

    def _install(self) -> None:
        self._before = self._things()
        self._hand_in(self._previous)
        self._hand_in(self._package)
        self._apt(f"install /root/{self._previous.name}")
        self._note("it installs with apt, and the command answers", "nimad" in self._run("nimad --version"))
        state = self._machine.attempt(f"systemctl is-enabled {SERVICE}; systemctl is-active {SERVICE}").output.split()
        self._note("the service is neither enabled nor started", state == ["disabled", "inactive"], state)
        self._note("the user nima has a home", self._holds("[ $(stat -c %U:%a ~nima) = nima:700 ]"))
        for name in ("ladybug", "real_ladybug", "pyarrow", "nimad"):
            apart = not self._holds(f"cd / && python3 -c 'import {name}'")
            self._note(f"Debian's own Python does not see {name}", apart)
        ours = "cd / && /usr/lib/nima-migrate/bin/python3 -c 'import pyarrow; import {0}; {0}.Database'"
        for name in ("ladybug", "real_ladybug"):
            self._note(f"ours has {name}", self._holds(ours.format(name)))
        unresolved = self._run("find /usr/lib/nima-migrate -name '*.so*' -exec ldd {} + | grep 'not found' || true")
        self._note("every library finds those it needs", not unresolved, unresolved)
        completion = ". /usr/share/bash-completion/completions/nimad && complete -p nimad"
        self._note("bash can complete it", self._holds(f"bash -c '{completion}'"))
        for shell in ("bash", "zsh"):
            words = f"_NIMAD_COMPLETE={shell}_complete COMP_WORDS='nimad migrate --dry' COMP_CWORD=2 nimad"
            self._note(f"{shell} is told the options of a command", "--dry-run" in self._run(words))
        first = self._run("head -n 1 /usr/share/zsh/vendor-completions/_nimad")
        self._note("zsh finds its completion by the name of the command", first == "#compdef nimad\n", first)

    def _set_up(self) -> None:
        for name, nodes in zip(_PEOPLE, (self._nodes, _FEW, _FEW), strict=True):
            folder = f"/home/{name}/.nima/memory"
            sample = f"mkdir -p {folder} && nimad sample {folder}/graph.sqlite --nodes {nodes}"
            self._run(f"runuser -u {name} -- sh -c '{sample}'")
        self._run(f"runuser -u pi -- mkdir -p {_PLUGIN}")
        self._run(f"printf '{_SETTINGS}' >/etc/nima/nimad.toml && nimad setup --user pi")
        # logind would end her systemd ten seconds after her last session, and each of our commands is one. What
        # `loginctl enable-linger` makes, which systemd 257 refuses in a container.
        self._run("mkdir -p /var/lib/systemd/linger && touch /var/lib/systemd/linger/maya")
        self._run("systemctl start user@$(id -u maya)")  # as a login does
        for control, unit in _OTHERS.values():
            self._run(f"{control} start {unit}")
        self._run(f"systemctl enable --now {SERVICE} {SERVICE}@jonas 2>&1")

    def _upgrade(self) -> None:
        """In the middle of the migration."""
        self._until(
            "some batches are through", lambda: int((re.findall(r"batch (\d+)", self._status()) or ["0"])[-1]) >= 3
        )
        before = self._processes()
        self._apt(f"install /root/{self._package.name}")
        journal = self._journal()
        for name, (_, unit) in _OTHERS.items():
            anew = f"{name}'s {unit} is started anew"  # which nobody waits for in an upgrade
            self._until(anew, lambda name=name: self._processes()[name] not in {"0", before[name]})  # type: ignore[misc]
            self._note(anew, right=True)
        self._note("the upgrade came before the end", "Published" not in journal.split("Stopping")[0], journal)
        self._note("it stopped the service at a checkpoint", "everything counted is kept" in journal, journal)
        self._note("the changed settings outlive it", "100" in self._run("cat /etc/nima/nimad.toml"))

    def _complete(self) -> None:
        self._until("the migration is complete", lambda: self._holds(f"[ -e {_HOME}/graph.ladybug ]"))
        self._until("it says so", lambda: "Migration completed successfully" in self._journal())
        journal = self._journal()
        self._note("it went on with what was there", "Going on with" in journal, journal)
        self._note("every row was verified", f"Verified: {self._nodes} nodes" in journal, journal)
        self._note("it follows the memory", self._holds(f"systemctl is-active {SERVICE}"))
        health = self._machine.attempt(f"runuser -u pi -- python3 {_PLUGIN}/health_check.py --db {_HOME}/graph.ladybug")
        self._note("the script of nima-core's guide finds the memory healthy", health.status == 0, health.output)
        compared = self._machine.attempt(f"runuser -u pi -- nimad verify --target {_HOME}/graph.ladybug")
        self._note("nimad verify finds no difference", compared.status == 0, compared.output)
        found = self._run(f"runuser -u pi -- nimad search --target {_HOME}/graph.ladybug --limit 1 telescope")
        self._note("a search finds something", bool(found.strip()))

    def _cut_off(self) -> None:
        """The power goes while dpkg works: what it noted of the service is gone, and one file was not there yet."""
        self._run(f"{_QUIET} dpkg --unpack /root/{self._package.name} 2>&1")
        broken = self._run("ls /usr/lib/nima-migrate/lib/python3.*/site-packages/nimad/errors.py").strip()
        self._run(f"rm -f /run/nima-migrate.upgrade* {broken} && systemctl start --no-block {SERVICE}")
        self._until("the service fails", lambda: self._holds(f"systemctl is-failed {SERVICE}"))
        self._run(f"{_QUIET} dpkg --install /root/{self._package.name} 2>&1")
        self._until("it is started anew", lambda: self._holds(f"systemctl is-active {SERVICE}"))
        self._note("what dpkg left half done is mended by dpkg, and the service goes on", right=True)

    def _remove(self) -> None:
        """While the service runs. What a memory has beside it is to survive all this."""
        self._run(f"runuser -u pi -- touch {_HOME}/ladybug.lbug.quarantine.jsonl {_HOME}/ladybug.lbug.backup-old")
        self._kept = self._sums()
        said = self._apt(f"remove {SERVICE}")
        self._note("removing tells of the scripts that stay in the home", f"into {_PLUGIN} stay" in said, said)
        self._note("removing stops the service", not self._holds("pgrep -f [n]imad"))
        self._note("and leaves the configuration", self._holds("[ -e /etc/nima/nimad.toml ]"))
        left = sorted(name for name in self._things() if name.startswith("/usr/"))
        self._note("and takes everything else away", not left, left)

    def _reinstall(self) -> None:
        self._apt(f"install /root/{self._package.name}")
        self._note("it is not started by being installed again", not self._holds(f"systemctl is-active {SERVICE}"))
        self._run(f"systemctl start {SERVICE}")
        self._note(
            "and starts with the settings it had", self._holds(f"systemctl is-active {SERVICE}"), self._journal()
        )

    def _purge(self) -> None:
        self._apt(f"purge --autoremove {SERVICE}")
        self._note("purging stops the service", not self._holds("pgrep -f [n]imad"))
        self._note("memory, target, backup and quarantine are as they were", self._sums() == self._kept)
        left = self._things() - self._before
        self._note("nothing else is left", left == _LEFT, sorted(left ^ _LEFT))
        self._note("but the user nima, who may own files", self._holds("id nima"))
        failed = self._run("systemctl list-units --all --plain --no-legend 'nima*'").strip()
        self._note("systemd has forgotten the service", not failed, failed)

    def _processes(self) -> Mapping[str, str]:
        return {
            name: self._run(f"{control} show -P MainPID {unit}").strip() for name, (control, unit) in _OTHERS.items()
        }

    def _hand_in(self, package: Path) -> None:
        with package.open("rb") as file:
            self._machine.run(f"cat >/root/{package.name}", stdin=file)

    def _apt(self, words: str) -> str:
        output = self._run(f"{_QUIET} apt-get -qy {words} 2>&1")
        if "warning" in output.lower().replace("apt-key", ""):
            say(f"{self._suite}: apt-get {words.split(maxsplit=1)[0]} said:\n{output[-1_500:]}")
        return output

    def _status(self) -> str:
        return self._run(f"systemctl show -P StatusText {SERVICE}")

    def _journal(self) -> str:
        return self._run(f"journalctl -o cat -u {SERVICE}")

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                last = self._run("journalctl -n 100")
                raise SystemExit(f"{self._suite}: waited in vain until {what}:\n{self._journal()[-3_000:]}\n{last}")
            time.sleep(_POLL_S)

    def _sums(self) -> str:
        """What may never be lost. Not the log, to which each start adds."""
        return self._run(f"cd {_HOME} && sha256sum graph.sqlite graph.ladybug ladybug.lbug ladybug.lbug.[bq]*")

    def _things(self) -> set[str]:
        """Files and folders that are ours by name."""
        listed = self._run("find / -xdev -path /proc -prune -o -path /sys -prune -o -path /root -prune -o -print")
        passing = ("/var/log", "/var/lib/apt", "/var/cache/apt", "/run")
        return {name for name in listed.splitlines() if _OURS.search(name) and not name.startswith(passing)}


def _as_previous(package: Path, work: Path) -> Path:
    """The same package under an earlier version, to upgrade from."""
    tree, made = work / "previous", work / f"previous_{package.name}"
    run("dpkg-deb", "-R", package, tree)
    control = tree / "DEBIAN" / "control"
    control.write_text(
        re.sub(r"(?m)^Version: (.*)$", r"Version: 0~\1", control.read_text(encoding="utf-8")), encoding="utf-8"
    )
    run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, made)
    shutil.rmtree(tree)
    return made


if __name__ == "__main__":
    sys.exit(main())
