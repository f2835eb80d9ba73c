#!/usr/bin/env python3
"""Play a service's life under a real systemd: 252 of Debian 12 and 257 of Debian 13, each booted in a container.

    python3 tests/system/service.py [--suite bookworm|trixie] [SCENARIO …]

As root. Each scenario is a function below, in the order of the file; it begins with a memory of its own and a service
that is set up for the user pi. Exit status 0 only if all of them went well.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import nspawn
from common import Done, say
from nspawn import Container, NotSo

from nimad.service.setup import NOT_NEEDED

NODES = 640
UNIT, USER = "nima-migrate", "pi"
#: Seconds until what is waited for has to have come. Nothing here takes half as long on a slow machine.
PATIENCE_S, POLL_S = 180.0, 0.25
#: Seconds for which what must not happen is looked out for.
QUIET_S = 3.0
#: The largest exposure that `systemd-analyze security` may see, of 10.
EXPOSURE = 1.5

#: A dozen small batches: seconds in which a migration can be met in the middle.
SLOW = "[batch]\nsize = 80\nfixed = true\n"
_SAMPLE = "/srv/sample.sqlite"
#: How a target and a memory compare, without any code of nimad's; read as the user.
_COMPARE = """\
import sqlite3, sys
import ladybug
sqlite, target = sys.argv[1:]
rows = sqlite3.connect(f"file:{sqlite}?mode=ro", uri=True)
base = ladybug.Connection(ladybug.Database(target, read_only=True, buffer_pool_size=1 << 27, max_db_size=1 << 34))
def ask(query):
    result = base.execute(query)
    found = []
    while result.has_next():
        found.append(tuple(result.get_next()))
    return found
for what, select, match in (
    ("nodes", "id, text FROM memory_nodes", "(n:MemoryNode) RETURN n.id, n.text"),
    ("turns", "id, turn_id FROM memory_turns", "(n:Turn) RETURN n.id, n.turn_id"),
    ("edges", "id, relation FROM memory_edges", "()-[r:relates_to]->() RETURN r.edge_id, r.relation"),
):
    here, there = sorted(rows.execute(f"SELECT {select}")), sorted(ask(f"MATCH {match}"))
    missing, more = len(set(here) - set(there)), len(set(there) - set(here))
    print(what, len(here), "same" if here == there else f"DIFFER: {missing} missing, {more} too many")
"""
#: Tries what the unit is to refuse. io_uring_setup(2) has this number on every kind of machine.
_PROBE = """\
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print("ring", libc.syscall(425, 8, ctypes.create_string_buffer(256)), ctypes.get_errno())
home = os.environ["HOME"]
print("seen", [name for name in NAMES.split() if os.access(f"{home}/{name}/x", os.R_OK)])
print("needed", os.access(f"{home}/.openclaw/openclaw.json", os.R_OK), os.access(f"{home}/.nima/memory", os.W_OK))
"""
#: An agent that goes on writing: a memory each few hundredths of a second, in the way of nima-core.
_WRITER = """\
import sqlite3, sys, time
base, count = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None), int(sys.argv[2])
for number in range(count):
    base.execute("INSERT INTO memory_nodes (timestamp, layer, text, who) VALUES (?, 'input', ?, 'late')",
                 (1_780_000_000_000 + number, f"late memory {number}"))
    time.sleep(float(sys.argv[3]))
"""
#: An agent that recalls a memory, and dismisses it, in the target; with --look, what the target has of it.
_AGENT = """\
import sys
import ladybug
looks = sys.argv[2:] == ["--look"]
base = ladybug.Database(sys.argv[1], read_only=looks, buffer_pool_size=1 << 27, max_db_size=1 << 34)
connection = ladybug.Connection(base)
if looks:
    print(*connection.execute("MATCH (n:MemoryNode {id: 7}) RETURN n.is_ghost, n.strength").get_next())
else:
    connection.execute("MATCH (n:MemoryNode {id: 7}) SET n.is_ghost = true, n.strength = 0.125")
connection.close()
base.close()
"""


def check(well: object, what: str, more: object = "") -> None:
    if not well:
        raise NotSo(f"{what}\n{more}".strip())


@dataclass
class Service:
    """A unit in a container, and the memory of its user."""

    box: Container
    unit: str = UNIT
    user: str = USER
    began: str = ""  # the moment at which the scenario did, in seconds of the machine's clock

    @property
    def home(self) -> str:
        return nspawn.ELSEWHERE[1] if self.user == nspawn.ELSEWHERE[0] else f"/home/{self.user}"

    @property
    def source(self) -> str:
        return f"{self.home}/.nima/memory/graph.sqlite"

    @property
    def target(self) -> str:
        return f"{self.home}/.nima/memory/ladybug.lbug"

    # The surroundings

    def make_memory(self) -> None:
        folder = f"{self.home}/.nima/memory"
        self.box.run(
            f"cd {self.home} && rm -rf .nima .openclaw && "
            f"install -d -o {self.user} -g {self.user} .nima {folder} .openclaw && "
            f"install -o {self.user} -g {self.user} {_SAMPLE} {self.source}"
        )

    def configure(self, text: str) -> None:
        self.box.run(f"mkdir -p /etc/nima && printf %s {shlex.quote(text)} >/etc/nima/nimad.toml")

    def drop_in(self, text: str) -> None:
        folder = f"/etc/systemd/system/{self.unit}.service.d"
        lines = f"[Service]\n{text}"
        self.box.run(f"mkdir -p {folder} && printf %s {shlex.quote(lines)} >{folder}/90-test.conf")
        self.box.run("systemctl daemon-reload")

    def openclaw(self, **database: object) -> None:
        """Write OpenClaw's file as OpenClaw does: beside it first, then by its name."""
        text = json.dumps(
            {"plugins": {"entries": {"nima-memory": {"enabled": True, "config": {"database": database}}}}}
        )
        place = f"{self.home}/.openclaw/openclaw.json"
        self.as_user(f"printf %s {shlex.quote(text)} >{place}.new && mv {place}.new {place}")

    def as_user(self, script: str) -> Done:
        done = self.box.attempt(
            f"cd {self.home} && HOME={self.home} setpriv --reuid={self.user} --regid={self.user} "
            f"--init-groups sh -c {shlex.quote(script)}"
        )
        check(done.status == 0, f"as {self.user}: {script}", done.output)
        return done

    # The service

    def systemctl(self, verb: str, *, fails: bool = False) -> None:
        done = self.box.attempt(f"systemctl {verb} {self.unit}")
        check(
            (done.status != 0) == fails, f"systemctl {verb} ended with {done.status}", f"{done.output}\n{self.lines()}"
        )

    def show(self, name: str) -> str:
        return self.box.run(f"systemctl show --value -p {name} {self.unit}").strip()

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    def lines(self, *options: str) -> str:
        """What the journal has of the unit since the scenario began."""
        # Not by a cursor: with further matches, that of systemd 252 leaves out the first entry after it.
        chosen = f"--since=@{self.began} -u {self.unit} {shlex.join(options)}"
        return self.box.run(f"journalctl --sync; journalctl --quiet -o cat {chosen}; :")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                state = self.box.attempt(f"systemctl status --no-pager -n 0 {self.unit}").output
                raise NotSo(f"{what}: not within {PATIENCE_S:.0f} s\n{state}\n{self.lines()[-3_000:]}")
            time.sleep(POLL_S)

    def wait_for_status(self, pattern: str) -> str:
        self.wait(lambda: re.search(pattern, self.show("StatusText")), f"the status «{pattern}»")
        return self.show("StatusText")

    def wait_for_line(self, pattern: str) -> None:
        self.wait(lambda: re.search(pattern, self.lines()), f"a line «{pattern}» in the journal")

    def in_the_middle(self) -> None:
        """Wait until some batches are through, and some not."""
        self.wait_for_status(r"^Migrating nodes: batch [2-9],")

    # The migration

    def count(self) -> int:
        base = f"import sqlite3; base = sqlite3.connect({self.source!r});"
        query = f"{base} print(base.execute('SELECT count(*) FROM memory_nodes').fetchone()[0])"
        return int(self.as_user(f"python3 -c {shlex.quote(query)}").output)

    def wait_until_complete(self) -> None:
        memories = self.count()
        self.wait_for_status(rf"^Complete: {memories:,} memories")
        self.check_same()

    def check_same(self) -> None:
        said = self.as_user(f"/opt/nimad/bin/python /srv/compare.py {self.source} {self.target}").output
        check(said.count("same") == 3, "memory and target hold the same", said)

    def write_in_the_background(self, count: int, pause_s: float) -> None:
        self.box.run(
            f"systemd-run --quiet --unit=writer --collect -p User={self.user} "
            f"python3 /srv/writer.py {self.source} {count} {pause_s}"
        )

    def wait_for_writer(self) -> None:
        self.wait(lambda: self.box.attempt("systemctl is-active writer").status, "the end of the writer")


# Scenarios


def not_set_up(service: Service) -> None:
    service.box.run("nimad setup --undo")
    service.systemctl("start", fails=True)
    check(service.show("ExecMainStatus") == "78", "it ends with 78", service.lines())
    said = service.lines("-t", "nimad").splitlines()
    check(len(said) == 1 and "sudo nimad setup --user NAME" in said[0], "it says in one line what to do", said)
    time.sleep(QUIET_S)
    check(service.restarts == 0 and service.show("ActiveState") == "failed", "it is not started again", service.lines())


def set_up_and_undone(service: Service) -> None:
    box, folder = service.box, "/etc/systemd/system"
    box.run("nimad setup --undo")
    before = box.run(f"find {folder} /etc/systemd/user | sort")
    said = box.run(f"nimad setup --user {USER}")
    check(f"enable --now {UNIT}" in said and f"journalctl -fu {UNIT}" in said, "it says how to go on", said)
    check("Set up already" in box.run(f"nimad setup --user {USER}"), "it can be repeated")
    box.run(f"systemctl enable --now {UNIT}")
    service.wait_until_complete()
    said = box.run("nimad setup --undo")
    check(f"systemctl disable --now {UNIT}" in said, "it says that the service goes on", said)
    box.run(f"systemctl disable --now {UNIT}")
    after = box.run(f"find {folder} /etc/systemd/user | sort")
    check(after == before, "nothing is left", f"{before}\n{after}")


def set_up_without_a_package(service: Service) -> None:
    """As after `pip install`, for somebody whose home is elsewhere and who has no package's units."""
    box, other = service.box, Service(service.box, user=nspawn.ELSEWHERE[0])
    units = "/usr/lib/systemd/system/nima-migrate*.service /usr/lib/systemd/user/nima-migrate.service /usr/bin/nimad"
    box.run(
        f"nimad setup --undo && mkdir /run/kept && mv -t /run/kept --backup=numbered {units} && systemctl daemon-reload"
    )
    other.make_memory()
    box.run(f"/opt/nimad/bin/nimad setup --user {other.user} && systemctl start {UNIT}")
    other.wait_until_complete()
    check("astrid" in box.run(f"stat -c %U {other.target}"), "the files are hers")
    box.run(f"systemctl stop {UNIT} && /opt/nimad/bin/nimad setup --undo && ln -s /opt/nimad/bin/nimad /usr/bin/nimad")
    gone = box.attempt(f"systemctl cat {UNIT}")
    check(gone.status != 0, "undo leaves no unit", gone.output)
    box.run("cp /opt/source/systemd/*.service /usr/lib/systemd/system/ && systemctl daemon-reload")
    box.run("cp /opt/source/systemd/user/*.service /usr/lib/systemd/user/")


def set_up_from_a_home(service: Service) -> None:
    """As after `pip install` into her own home, which the service sees as well."""
    box, place = service.box, f"{service.home}/.local/nimad"
    box.run("nimad setup --undo")
    service.as_user(
        f"mkdir -p {place} && cp -r /opt/nimad/. {place} && sed -i '1s|.*|#!{place}/bin/python|' {place}/bin/nimad"
    )
    box.run(f"{place}/bin/nimad setup --user {USER} && systemctl start {UNIT}")
    running = box.run(f"tr '\\0' ' ' </proc/{service.pid}/cmdline")
    check(f"{place}/bin/nimad run" in running, "the service runs that program", running)
    service.wait_until_complete()


def set_up_refused(service: Service) -> None:
    """Each in one line, with the exit code of its kind, and with nothing written."""
    box = service.box
    box.run("nimad setup --undo && cp -r /opt/nimad /root/nimad && chmod 700 /root")
    closed = f"chmod 755 /home/{USER} && chmod 600 {service.source}"
    for script, status, words in (
        ("nimad setup --user nobody-here", 2, "there is no user 'nobody-here'"),
        ("nimad setup --user maya", 2, "has no memory there"),
        (f"{closed} && nimad setup --user maya --source {service.source}", 77, "may not read"),
        (f"/root/nimad/bin/nimad setup --user {USER}", 77, "cannot reach /root/nimad/bin/nimad"),
        (f"su {USER} -c 'nimad setup --user {USER}'", 77, "sudo"),
        ("nimad setup", 2, "sudo nimad setup --user NAME"),
    ):
        done = box.attempt(script)
        well = done.status == status and words in done.output and len(done.output.splitlines()) == 1
        check(well, f"{script}: {status} and «{words}» in one line, not {done.status}", done.output)
    check("10-setup.conf" not in box.run("ls -R /etc/systemd/system"), "nothing was written")


def start_to_complete(service: Service) -> None:
    service.configure(SLOW)
    service.systemctl("start")
    check(service.show("ActiveState") == "active", "it is active once `systemctl start` returns")
    text = service.wait_for_status(rf"^Migrating nodes: batch \d+, [\d,]+ of {NODES} \(\d+ %\), ETA ")
    shown = service.box.run(f"systemctl status --no-pager {UNIT}")
    check('Status: "' in shown, "`systemctl status` shows what goes on", f"{text}\n{shown}")
    service.wait_until_complete()
    for pattern in (r"Batch 3/", rf"Verified: {NODES} nodes", r"Published: "):
        check(re.search(pattern, service.lines()), f"«{pattern}» is in the journal", service.lines())
    check(not service.lines("-p", "warning"), "nothing is warned of", service.lines("-p", "warning"))
    entries = [json.loads(line) for line in service.lines("-o", "json").splitlines()]
    check(any("NIMA_BATCH" in entry for entry in entries), "the journal has fields of ours", entries[-1])
    names = {entry["SYSLOG_IDENTIFIER"] for entry in entries} - {"systemd"}
    check(names == {"nimad"}, "all of it is said by nimad", names)


def stop_and_start(service: Service) -> None:
    service.configure(SLOW)
    service.systemctl("start")
    service.in_the_middle()
    began = time.monotonic()
    service.systemctl("stop")
    took = time.monotonic() - began
    check(took < 12, f"it stops within 12 s, and took {took:.1f}")
    check(service.show("Result") == "success", "a stop is no failure", service.show("Result"))
    left = service.box.attempt("pgrep -fa [n]imad.worker")
    check(left.status == 1, "no worker is left", left.output)
    check(service.box.attempt(f"test -e {service.target}").status, "nothing is published")
    service.systemctl("start")
    service.wait_until_complete()


def killed(service: Service) -> None:
    service.configure(SLOW)
    service.systemctl("start")
    service.in_the_middle()
    before = service.pid
    service.box.run(f"kill -9 {before}")
    service.wait(lambda: service.restarts == 1 and service.pid not in (0, before), "a restart")
    service.wait_until_complete()
    check(service.restarts == 1, "one restart was enough", service.restarts)


def hung(service: Service) -> None:
    service.configure(SLOW)
    service.drop_in("WatchdogSec=2\nRestartSec=1\nTimeoutStopSec=5\n")
    service.systemctl("start")
    service.in_the_middle()
    before = service.pid
    service.box.run(f"kill -STOP {before}")
    service.wait_for_line("(?i)watchdog timeout")
    service.wait(lambda: service.pid not in (0, before), "a restart")
    service.wait_until_complete()


def a_long_run_is_no_hang(service: Service) -> None:
    """The watchdog is fed while workers work."""
    service.configure(SLOW)
    service.drop_in("WatchdogSec=2\n")
    service.systemctl("start")
    service.wait_until_complete()
    check(service.restarts == 0, "it is not restarted", service.lines())


def reloaded(service: Service) -> None:
    service.configure(SLOW)
    service.systemctl("start")
    before = service.pid
    service.in_the_middle()
    service.configure('[batch]\nsize = "many"\n')
    service.systemctl("reload")
    service.wait_for_line(r"nimad\.toml.*\bsize\b.*")
    check("nimad.toml" in service.lines("-p", "err"), "a bad file is an error in the journal", service.lines())
    service.configure(SLOW.replace("80", "90") + '[log]\nlevel = "DEBUG"\n')
    service.systemctl("reload")
    service.wait_for_line("(?i)configuration was read again|reloaded")
    service.wait_until_complete()
    check((service.pid, service.restarts) == (before, 0), "it is the same process all the while", service.lines())


def misconfigured(service: Service) -> None:
    service.configure("[batch]\nsize = 0\n")
    service.systemctl("start", fails=True)
    check(service.show("ExecMainStatus") == "78", "it ends with 78", service.lines())
    said = service.lines("-t", "nimad", "-p", "err").splitlines()
    check(len(said) == 1 and "/etc/nima/nimad.toml" in said[0], "it says in one line what is wrong", service.lines())
    time.sleep(QUIET_S)
    check(service.restarts == 0 and service.show("ActiveState") == "failed", "it is not started again", service.lines())


def asked_by_openclaw(service: Service) -> None:
    service.configure('[service]\ntrigger = "openclaw"\n')
    service.box.run(f"rm -r {service.home}/.openclaw")  # comes later, too
    service.systemctl("start")
    service.wait_for_status("^Waiting for .*openclaw.json")
    service.as_user("mkdir ~/.openclaw")
    service.openclaw(backend="ladybugdb", auto_migrate=False)
    service.wait_for_status("^Waiting for auto_migrate in openclaw.json")
    check(service.box.attempt(f"test -e {service.target}").status, "nothing is migrated yet")
    service.openclaw(backend="ladybugdb", auto_migrate=True)
    service.wait(lambda: not service.box.attempt(f"test -e {service.target}").status, "the target")
    service.wait_for_status("^Complete")
    service.check_same()


def a_start_up_hook(service: Service) -> None:
    """nima-core's gateway starts beside the service, and calls the script that it has always called."""
    plugin = f"{service.home}/.openclaw/extensions/nima-memory"
    service.as_user(f"mkdir -p {plugin} && echo 'raise SystemExit(9)' >{plugin}/migrate_to_ladybug.py")
    service.openclaw(backend="ladybugdb", auto_migrate=True)
    said = service.box.run(f"nimad setup --user {USER}")
    check(f"Wrote {plugin}/migrate_to_ladybug.py" in said and "Kept what was there as" in said, "it says so", said)
    owners = service.box.run(f"stat -c %U {plugin}/*")
    check(set(owners.split()) == {USER}, "the scripts are hers", owners)
    service.configure('[service]\ntrigger = "openclaw"\n' + SLOW)
    service.systemctl("start")
    hook = service.as_user(f"cd / && python3 {plugin}/migrate_to_ladybug.py --batch-size 80 --auto")
    check(" already; waiting for it, its lines follow" in hook.output, "it waits for the service", hook.output)
    check("✅ Migration completed successfully!" in hook.output, "it shows the service's lines", hook.output)
    check(len(re.findall("Starting migration", service.lines())) == 1, "the service did it", service.lines())
    service.systemctl("stop")
    again = service.as_user(f"python3 {plugin}/migrate_to_ladybug.py --batch-size 80 --auto")
    check("Nothing to do" in again.output, "without the service nimad looks itself", again.output)
    service.check_same()
    service.box.run("nimad setup --undo")
    left = service.box.run(f"ls {plugin} && cat {plugin}/*")
    check(left == "migrate_to_ladybug.py\nraise SystemExit(9)\n", "undo gives the script back", left)


def late_arrivals(service: Service) -> None:
    service.configure(SLOW)
    service.write_in_the_background(100, 0.04)
    service.systemctl("start")
    service.wait_for_writer()
    service.wait_until_complete()
    service.write_in_the_background(20, 0.05)
    service.wait_for_writer()
    service.wait_until_complete()
    check(service.count() == NODES + 120, "the writer wrote")


def the_agent_reads_it(service: Service) -> None:
    """Publishing is the hand-over: whatever OpenClaw's file says then, both sides' writes are kept."""
    agent = f"/opt/nimad/bin/python /srv/agent.py {service.target}"
    following = "; watching for late ones$"
    service.openclaw(backend="sqlite")
    service.systemctl("start")
    service.wait_for_status(following)
    service.openclaw(backend="ladybugdb")
    service.as_user(agent)
    service.write_in_the_background(5, 0.01)
    service.wait_for_writer()
    service.wait_until_complete()
    service.systemctl("restart")
    service.wait_for_status(following)
    kept = service.as_user(f"{agent} --look").output
    check(kept.split() == ["True", "0.125"], "what the agent wrote stays, after a restart too", kept)
    check(service.count() == NODES + 5, "the writer wrote")


def paused(service: Service) -> None:
    service.configure(SLOW)
    service.systemctl("start")
    service.in_the_middle()
    service.as_user("nimad pause")
    service.wait_for_status("^Paused; go on with: nimad resume")
    service.wait(lambda: service.box.attempt("pgrep -f [n]imad.worker").status, "the end of the last batch")
    service.systemctl("restart")  # which a pause outlasts
    service.wait_for_status("^Paused; go on with: nimad resume")
    check(service.box.attempt(f"test -e {service.target}").status, "nothing is published meanwhile")
    service.as_user("nimad resume")
    service.wait_until_complete()


def two_users(service: Service) -> None:
    both = [Service(service.box, f"{UNIT}@{name}", name) for name in nspawn.PEOPLE if name != USER]
    for one in both:
        one.make_memory()
    service.box.run(f"systemctl start {' '.join(one.unit for one in both)}")
    for one in both:
        one.wait_until_complete()
        listed = f"find {one.home}/.nima/memory -mindepth 1 -ignore_readdir_race -printf '%u\\n'"  # a lock may go
        owners = service.box.run(listed).split()
        check(set(owners) == {one.user}, f"all files are {one.user}'s", owners)
    service.box.run(f"systemctl stop {' '.join(one.unit for one in both)}")


def a_users_own(service: Service) -> None:
    """The user unit, in the systemd of a user, without root."""
    box = service.box
    box.run(f"systemctl start user@$(id -u {USER})")  # as a login does
    bus = f"export XDG_RUNTIME_DIR=/run/user/$(id -u {USER});"
    service.wait(lambda: not box.attempt(f"test -S /run/user/$(id -u {USER})/bus").status, "the user's systemd")
    try:
        said = service.as_user(f"{bus} systemd-analyze --user verify /usr/lib/systemd/user/{UNIT}.service").output
        check(UNIT not in said, "systemd accepts the user unit", said)
        service.as_user(f"{bus} systemctl --user start {UNIT}")
        show = f"{bus} systemctl --user show --value -p StatusText {UNIT}"
        service.wait(lambda: f"Complete: {NODES} memories" in service.as_user(show).output, "the end of the migration")
        service.check_same()
        service.as_user(f"{bus} systemctl --user stop {UNIT}")
    finally:
        box.run(f"systemctl stop user@$(id -u {USER})")


def hardened(service: Service) -> None:
    """In numbers, and in what the running service sees."""
    service.configure(SLOW)
    for unit in (UNIT, f"{UNIT}@{USER}"):
        said = service.box.run(f"systemd-analyze security --no-pager {unit}.service")
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        check(found and float(found[1]) <= EXPOSURE, f"the exposure of {unit} is at most {EXPOSURE}", said)
        say(f"      exposure of {unit}: {found[1] if found else '?'}")
    service.systemctl("start")
    service.in_the_middle()
    inside = f"nsenter -t {service.pid} -m -n"
    seen = service.box.run(f"{inside} ls /home /home/{USER}/.nima/memory")
    check("maya" not in seen and "graph.sqlite" in seen, "it sees one home only", seen)
    service.box.run("touch /dev/shm/of-another")
    shared = service.box.run(f"{inside} ls /dev/shm")
    check("of-another" not in shared, "its shared memory is its own", shared)
    net = service.box.run(f"{inside} cat /proc/net/dev").splitlines()[2:]
    check(len(net) == 1 and "lo:" in net[0], "it has no network", net)
    for place in (f"/home/{USER}/x", f"/home/{USER}/.openclaw/x", "/etc/x", "/srv/x"):
        check(service.box.attempt(f"{inside} touch {place}").status, f"it cannot write {place}")
    status = service.box.run(f"cat /proc/{service.pid}/status")
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
        check(line in status, f"{line!r} holds", status)
    service.wait_until_complete()


def probed(service: Service) -> None:
    """What the unit lets a program do, asked by a program that is started as the unit starts ours."""
    names = " ".join(NOT_NEEDED)
    probe = f"NAMES = {names!r}\n{_PROBE}"
    service.box.run(f"printf %s {shlex.quote(probe)} >/opt/probe.py")
    service.openclaw()
    service.as_user(f'for name in {names}; do mkdir -p "$name" && touch "$name/x"; done')
    start = "ExecStart=\nExecStart=/usr/bin/python3 /opt/probe.py\n"
    service.drop_in(f"Type=oneshot\nWatchdogSec=0\nRestart=no\n{start}")
    service.systemctl("start")
    said = service.lines()
    check("ring -1 1" in said, "no ring of io_uring is made: EPERM", said)
    check("seen []" in said, "of the home it does not see what it does not need", said)
    check("needed True True" in said, "and sees what it needs", said)


def accepted(service: Service) -> None:
    units = f"{UNIT}.service {UNIT}@{USER}.service"
    done = service.box.attempt(f"systemd-analyze verify {units}")
    check(done.status == 0 and not done.output.strip(), "systemd finds nothing wrong with the units", done.output)


SCENARIOS: Sequence[Callable[[Service], None]] = (
    *(
        not_set_up,
        set_up_and_undone,
        set_up_without_a_package,
        set_up_from_a_home,
        set_up_refused,
        accepted,
        hardened,
        probed,
    ),
    *(start_to_complete, stop_and_start, killed, hung, a_long_run_is_no_hang, reloaded, misconfigured),
    *(asked_by_openclaw, a_start_up_hook, late_arrivals, the_agent_reads_it, paused, two_users, a_users_own),
)


# Playing them


def furnish(box: Container, source: Path, nodes: int) -> None:
    box.place(source)
    for name, text in (("compare", _COMPARE), ("writer", _WRITER), ("agent", _AGENT)):
        box.run(f"printf %s {shlex.quote(text)} >/srv/{name}.py")
    box.run(f"nimad sample {_SAMPLE} --nodes {nodes}")


def begin(service: Service) -> None:
    """A memory, a service that is set up and off, and nothing of the scenario before."""
    box = service.box
    box.run(
        f"systemctl stop {UNIT} 'nima-migrate@*' 2>/dev/null; systemctl reset-failed; "
        f"rm -rf /etc/nima /etc/systemd/system/{UNIT}.service.d/90-test.conf"
    )
    service.make_memory()
    box.run(f"nimad setup --user {USER}")
    service.began = box.run("date +%s.%6N").strip()
    service.drop_in("RestartSec=1\n")


def play(suite: str, service: Service, scenario: Callable[[Service], None]) -> bool:
    began = time.monotonic()
    try:
        begin(service)
        scenario(service)
    except NotSo as problem:
        say(f"NOT {suite}: {scenario.__name__} ({time.monotonic() - began:.1f} s): {problem}")
        return False
    say(f"ok  {suite}: {scenario.__name__} ({time.monotonic() - began:.1f} s)")
    return True


def main(
    scenarios: Sequence[Callable[[Service], None]] = SCENARIOS, description: str | None = __doc__, nodes: int = NODES
) -> int:
    parser = common.arguments(description)
    parser.add_argument("--suite", choices=nspawn.PYTHONS, help="Debian's release  [both]")
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help="by name  [all]")
    options = common.parse(parser)
    suites = [options.suite] if options.suite else list(nspawn.PYTHONS)
    roots = {suite: nspawn.image(options.build, options.source, suite) for suite in suites}
    if len(suites) > 1:
        return side_by_side(suites)
    chosen = [each for each in scenarios if not options.scenario or each.__name__ in options.scenario]
    (suite,) = suites
    began = time.monotonic()
    with Container(roots[suite]) as box:
        furnish(box, options.source, options.nodes or nodes)
        say(f"{suite}: {box.run('systemctl --version').splitlines()[0]}")
        failed = sum(not play(suite, Service(box), scenario) for scenario in chosen)
    say(f"{suite}: {len(chosen) - failed} of {len(chosen)} scenarios went well in {time.monotonic() - began:.0f} s")
    return 1 if failed or not chosen else 0


def side_by_side(suites: Sequence[str]) -> int:
    """Each in a process of its own, because most of the time of a scenario is waiting."""
    command = [sys.executable, *sys.argv]
    running = [subprocess.Popen([*command, "--suite", suite]) for suite in suites]
    try:
        return max(process.wait() for process in running)
    finally:
        for process in running:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
