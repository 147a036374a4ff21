"""Hosts inside this machine: network namespaces on a bridge, each with an address, a name and a disk (/tmp) of its own.

They share what is installed and nothing else; what they all reach lies behind the bridge's address, where this process
may serve it. A host is killed with all its processes, or cut off: then nobody is told, as when a cable is pulled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PREFIX = "raylab"
"""Namespaces are called raylab<pid>n<number>, bridges raylab<pid>b: what a process that is gone left can be told."""
FOLDER = Path(tempfile.gettempdir())

# A mount namespace of its own comes with `ip netns exec`, so these mounts are seen by the host's processes alone.
ENTER = """
set -e
mount --bind {folder}/hosts /etc/hosts
{shown}
mount --rbind {folder}/{number} /tmp
hostname {name}
cd {root}
exec "$@"
"""


def missing() -> str:
    """Return why no such hosts can be had here; empty where they can."""
    if os.getuid() != 0:
        return "needs root, for network namespaces"
    if absent := [tool for tool in ("ip", "unshare", "mount", "hostname") if not shutil.which(tool)]:
        return f"not installed: {', '.join(absent)}"
    try:
        with Network() as tried:
            tried.host(1)
    except subprocess.CalledProcessError as error:
        return f"no namespaces on a bridge: {error.stderr.decode().strip()}"
    return ""


class Host:
    """One host; see `Network.host`.

    Args:
        network: where it is.
        number: its number in it, from 1.
    """

    def __init__(self, network: Network, number: int) -> None:
        self.network, self.number = network, number
        self.space = f"{network.name}n{number}"
        self.cable = f"{network.name}v{number}"
        self.name = f"host-{number}"
        self.address = network.address(10 + number)
        (network.folder / str(number)).mkdir(exist_ok=True)
        _ip("netns", "add", self.space)
        _ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("link", "set", self.cable, "master", network.bridge, "up")
        _ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.space, "link", "set", device, "up")

    def line(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command on the host."""
        folder, number = self.network.folder, self.number
        script = ENTER.format(
            folder=folder, number=number, name=self.name, root=ROOT, shown=_shown(folder / str(number))
        )
        return ["ip", "netns", "exec", self.space, "unshare", "--uts", "bash", "-c", script, self.name, *command]

    def processes(self) -> list[psutil.Process]:
        """Return all that runs on the host."""
        found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False)
        processes = []
        for pid in map(int, found.stdout.split()):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        return processes

    def called(self, title: str) -> list[psutil.Process]:
        """Return the host's processes whose command line begins so, or whose program is called so."""
        lines = {process: command_line(process) for process in self.processes()}
        return [process for process, line in lines.items() if line.startswith(title) or f"/{title} " in line]

    def running(self, title: str) -> bool:
        """Tell whether such a process runs on the host."""
        return bool(self.called(title))

    def kill(self, besides: Sequence[int] = ()) -> None:
        """End all that runs on the host at once, without a word; `besides` are process ids that are spared."""
        while victims := [one for one in self.processes() if one.pid not in besides]:
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            psutil.wait_procs(victims, timeout=2)

    def cut(self) -> None:
        """Pull the cable: nothing that is sent arrives, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        """Put the cable in again."""
        _ip("link", "set", self.cable, "up")


class Network:
    """A bridge and the hosts on it, for a `with`: all of it goes, with its processes and files, whatever happens."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{os.getpid()}"
        self.bridge = f"{self.name}b"
        self.hosts: dict[int, Host] = {}

    def __enter__(self) -> Network:
        """Make the bridge; first remove what a process that was killed left behind."""
        for name in sorted(_left_behind()):
            _remove(name)
        self.folder = _folder(self.name)
        self.folder.mkdir()
        self._net = _free_net()
        try:
            self.gateway = self.address(1)
            names = "".join(f"{self.address(10 + number)} host-{number}\n" for number in range(1, 10))
            (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.gateway}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
        except subprocess.CalledProcessError:
            _remove(self.name)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self.name)

    def address(self, last: int) -> str:
        """Return an address in this network."""
        return f"{self._net}.{last}"

    def host(self, number: int) -> Host:
        """Return the host of that number, which is made where it is new."""
        if number not in self.hosts:
            self.hosts[number] = Host(self, number)
        return self.hosts[number]


def _shown(disk: Path) -> str:
    """Return the commands that show on a host's disk what is installed below /tmp here, which the disk would hide."""
    places = [place for place in (ROOT, Path(sys.prefix)) if place.is_relative_to("/tmp")]
    below = {place: disk / place.relative_to("/tmp") for place in places}
    return "\n".join(f"mkdir -p {there} && mount --bind {place} {there}" for place, there in below.items())


def command_line(process: psutil.Process) -> str:
    """Return a process's command line; empty where it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, check=True).stdout.decode()


def _free_net() -> str:
    """Return the first three numbers of a network that nobody has here: those of RFC 2544 are for trials."""
    taken = _ip("-o", "addr")
    return next(net for i in range(256) if f" {(net := f'198.18.{(os.getpid() + i) % 256}')}." not in taken)


def _left_behind() -> Iterator[str]:
    """Yield the names of networks whose process is gone; this process's own would be of another with its number."""
    names = _ip("netns", "list") + _ip("-o", "link") + " ".join(path.name for path in FOLDER.glob(f"{PREFIX}*-hosts"))
    for pid in set(re.findall(rf"\b{PREFIX}(\d+)(?:[nbv]\d*|-hosts)\b", names)):
        if int(pid) == os.getpid() or _is_gone(int(pid)):
            yield f"{PREFIX}{pid}"


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _remove(name: str) -> None:
    """Remove a network: processes, namespaces and with them their cables, the bridge, the disks."""
    spaces = [one["name"] for one in json.loads(_ip("-j", "netns", "list") or "[]")]
    for space in [one for one in spaces if re.fullmatch(rf"{name}n\d+", one)]:
        while pids := _ip("netns", "pids", space).split():
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(int(pid)).kill()
            time.sleep(0.05)
        _ip("netns", "delete", space)
    if f" {name}b:" in _ip("-o", "link"):
        _ip("link", "delete", f"{name}b")
    shutil.rmtree(_folder(name), ignore_errors=True)


def _folder(name: str) -> Path:
    return FOLDER / f"{name}-hosts"
