"""Debian's radosgw, a real S3 server, on loopback in a folder of its own: one monitor, one OSD in memory, one gateway.

    python tests/radosgw.py install     installs the packages (root, Debian 12 or 13, 150 MB, 20 s)
    python tests/radosgw.py             serves until it is interrupted, and prints what to export

It honours `If-Match` and `If-None-Match` on PutObject, exactly one of many at once, and ignores `If-None-Match` on
CompleteMultipartUpload (version 16). Losers of a race of `If-Match` get 500 rather than 412 from it. It checks
signatures and Content-MD5, and ignores the newer checksums.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "setpriv")
REMEDY = "install it on Debian as root with: python tests/radosgw.py install"
ACCESS_KEY, SECRET_KEY = "radosgw-access", "radosgw-secret"
START_S = 60
# No authentication between the daemons: they talk on loopback and hold nothing. `crc` because `secure` needs it.
CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
run dir = {folder}
admin socket =
log file = {folder}/$name.log
log to stderr = false
err to stderr = false
debug rgw = 0
mon cluster log to file = false
mon data = {folder}/mon
mon data avail crit = 1
mon data avail warn = 1
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd class load list = *
osd class default list = *
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw gc obj min wait = 1
rgw gc processor period = 5
"""


class CannotServeError(RuntimeError):
    """radosgw is not installed here, or does not start; the message says what to do."""


@contextmanager
def serve_radosgw(folder: Path) -> Iterator[str]:
    """Serve S3 on loopback with `ACCESS_KEY` and `SECRET_KEY`; yields the endpoint. It starts in some 15 s.

    The daemons end with this block, or with this process if it is killed.

    Raises:
        CannotServeError: it is not installed, or does not start.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise CannotServeError(f"radosgw cannot serve here: {', '.join(missing)} is not installed; {REMEDY}")
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    fsid, osd, mon_port, port = str(uuid.uuid4()), str(uuid.uuid4()), free_port(), free_port()
    conf = folder / "ceph.conf"
    conf.write_text(CONF.format(fsid=fsid, folder=folder, mon_port=mon_port, port=port))
    monmap, daemons = str(folder / "monmap"), []
    try:
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        run("ceph-mon", "-c", str(conf), "--mkfs", "-i", "a", "--monmap", monmap)
        daemons.append(start("ceph-mon", "-c", str(conf), "-i", "a", "-f"))
        run("ceph", "-c", str(conf), "--connect-timeout", str(START_S), "osd", "new", osd)
        run("ceph-osd", "-c", str(conf), "--mkfs", "-i", "0", "--osd-uuid", osd)
        daemons.append(start("ceph-osd", "-c", str(conf), "-i", "0", "-f"))
        keys = ("--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY)
        user = ("user", "create", "--uid", "tester", "--display-name", "tester")
        run("radosgw-admin", "-c", str(conf), *user, *keys)
        daemons.append(start("radosgw", "-c", str(conf), "-n", "client.rgw", "-f"))
        wait_for(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()


def free_port() -> int:
    """A port of loopback that nobody listens at right now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
    except subprocess.TimeoutExpired:
        raise CannotServeError(f"radosgw does not start: {command[0]} took more than {START_S} s") from None
    if done.returncode:
        raise CannotServeError(f"radosgw does not start: {command[0]} ended with {done.returncode}: {done.stderr}")


def start(*command: str) -> subprocess.Popen[bytes]:
    guarded = ("setpriv", "--pdeathsig", "KILL", "--", *command)
    return subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(address: str) -> None:
    deadline = time.monotonic() + START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        try:
            with opener.open(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise CannotServeError(f"radosgw does not answer at {address} after {START_S} s")


def install() -> None:
    command = ("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)  # noqa: S607 - the system's
    subprocess.run(command, check=True, env=environment)


def main() -> None:
    if sys.argv[1:] == ["install"]:
        install()
        return
    with tempfile.TemporaryDirectory() as folder, serve_radosgw(Path(folder)) as endpoint:
        settings = {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in settings.items()))
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
