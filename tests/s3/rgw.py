"""Run Ceph's gateway for S3 on 127.0.0.1: one monitor, one manager, one store in memory, and the gateway.

    python -m tests.s3.rgw FOLDER PORT      PORT 0: a free one

It prints the address when the gateway answers, and runs until it is ended; its processes end with it (`mortal.py`).
The programs are those of Debian's packages ceph-mon, ceph-mgr, ceph-osd, ceph-common and radosgw.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

__all__ = ["PROGRAMS", "free_port"]

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-mgr", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
COMMAND_MAX = 120.0
"""Seconds that one command of the set-up may take."""
CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
rgw data = {folder}/rgw
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$name.sock
log file = {folder}/$name.log
osd objectstore = memstore
memstore device bytes = 12884901888
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 0
mon max pg per osd = 1000
rgw gc obj min wait = 2
rgw gc processor period = 2
rgw gc processor max time = 20
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


class Cluster:
    """The processes of one cluster."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port or free_port()
        self.config, self.keyring = folder / "ceph.conf", folder / "keyring"
        self.fsid, self.mon_port = uuid.uuid4(), free_port()
        for name in ("mon", "mgr", "osd", "rgw", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG.format(fsid=self.fsid, mon_port=self.mon_port, folder=folder))

    def command(self, *words: str) -> str:
        """Run a command of the set-up to its end."""
        command = [words[0], "-c", str(self.config), *words[1:]]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=COMMAND_MAX).stdout

    def permit(self, name: str, *rights: str) -> None:
        """Make a key for a process."""
        with open(self.keyring, "a", encoding="ascii") as keys:
            keys.write(self.command("ceph", "auth", "get-or-create", name, *rights))

    def begin(self, *words: str) -> None:
        """Start a process that ends with this one."""
        mortal = [sys.executable, str(Path(__file__).with_name("mortal.py")), str(os.getpid())]
        program = subprocess.run(["which", words[0]], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
        log = open(self.folder / f"{words[0]}.out", "wb")  # noqa: SIM115 (it is the process's)
        subprocess.Popen([*mortal, program, "-c", str(self.config), "-f", *words[1:]], stdout=log, stderr=log)

    def start(self) -> None:
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{self.mon_port}]"
        made = ["monmaptool", "--create", "--fsid", str(self.fsid), "--addv", "a", address, monmap]
        all_of_it = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        admin = ["ceph-authtool", str(self.keyring), "--gen-key", "-n", "client.admin", *all_of_it]
        mon = ["ceph-authtool", "-C", str(self.keyring), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]
        for command in (made, mon, admin):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.command("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(self.keyring))
        self.begin("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self.command("ceph", "osd", "new", osd)
        self.permit("osd.0", "mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
        self.permit("mgr.x", "mon", "allow profile mgr", "osd", "allow *")
        self.command("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.begin("ceph-osd", "-i", "0")
        self.begin("ceph-mgr", "-i", "x")
        user = ["--uid", "tests", "--display-name", "tests", "--access-key", "tests", "--secret-key", "tests-secret"]
        self.command("radosgw-admin", "user", "create", *user)
        endpoint = f"beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1"
        self.begin("radosgw", "-n", "client.admin", f"--rgw-frontends={endpoint}")
        while not self.answers():
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}", timeout=10):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).absolute(), int(sys.argv[2]))
    cluster.start()
    print(f"http://127.0.0.1:{cluster.port}", flush=True)
    signal.pause()
