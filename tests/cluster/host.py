"""A machine of its own inside this one: an sshd, homes and processes in Linux namespaces, which all end with it.

Its loopback is not ours, so port 22 and Ray's ports are free there; its `ray stop` sees only its own processes; and its
user's home is an empty folder. It has no network, so what must be downloaded is installed before (`install`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SOCKETS = Path("/tmp") / f"ray_ssh_{hashlib.sha256(b'laptop').hexdigest()[:10]}"
"""Where Ray keeps the connections of this user; it leaves the folder behind."""

SSHD_CONFIG = """
ListenAddress 127.0.0.1
HostKey /srv/host_key
AuthorizedKeysFile /srv/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
PidFile none
"""

# /srv: the host's folder, in its namespace alone, so that paths are short and the same for any temporary folder.
MOUNTS = """
set -e
mount --bind {folder} /srv
mount --bind /srv/passwd /etc/passwd
mkdir -p /tmp/ray && mount --bind /srv/ray /tmp/ray
"""

BOOT = (
    MOUNTS
    + "mount -t tmpfs tmpfs /run && mkdir /run/sshd && ip link set lo up && exec /usr/sbin/sshd -D -e -f /srv/sshd"
)


def missing() -> str:
    """Return why no such host can be had here; empty where it can."""
    if os.getuid() != 0:
        return "needs root, for namespaces"
    tools = ["/usr/sbin/sshd", "ssh-keygen", "rsync", "unshare", "nsenter", "ip", "ss", "pgrep", "curl"]
    absent = [tool for tool in tools if not shutil.which(tool)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces: {tried.stderr.decode().strip()}"


class Host:
    """The machine, and beside it `laptop`, from which a user works: a home with a key and a copy of the project."""

    def __init__(self, folder: Path) -> None:
        """Lay out both homes in `folder`."""
        self.folder = folder
        for name in ("laptop/.ssh", "node", "ray"):
            (folder / name).mkdir(parents=True)
        key = folder / "laptop/.ssh/id_ed25519"
        for path in (key, folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
        (folder / "sshd").write_text(SSHD_CONFIG)
        users = "laptop:x:0:0::/srv/laptop:/bin/bash\nubuntu:x:0:0::/srv/node:/bin/bash\n"
        (folder / "passwd").write_text(users + Path("/etc/passwd").read_text())
        kept = shutil.ignore_patterns("__pycache__")
        for name in ("raylab", "jobs", "cluster"):
            shutil.copytree(ROOT / name, folder / "laptop/raylab" / name, ignore=kept)
        for name in ("pyproject.toml", "constraints.txt", "README.md", ".gitignore", ".rayignore"):
            shutil.copy(ROOT / name, folder / "laptop/raylab" / name)
        self.process: subprocess.Popen[bytes] | None = None

    def install(self, config: str) -> None:
        """Copy the files and run the setup commands as `ray up` does before it starts Ray, with our network."""
        project = self.folder / "laptop/raylab"
        read = yaml.safe_load((project / config).read_text())
        for remote, local in read["file_mounts"].items():
            if not local.startswith("~"):
                target = self.folder / "node" / remote.removeprefix("~/")
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (project / local).is_dir() else shutil.copy)(project / local, target)
        script = MOUNTS.format(folder=self.folder) + "\n".join(read["setup_commands"])
        passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTPS_"))}
        path = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        env = passed | {"HOME": "/srv/node", "PATH": path, "PIP_NO_CACHE_DIR": "1"}
        line = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=1500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def boot(self) -> None:
        """Start the machine; return when its sshd answers."""
        line = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen([*line, "bash", "-c", BOOT.format(folder=self.folder)], stderr=log)
        deadline = time.monotonic() + 20
        while "listening" not in (self.folder / "sshd.log").read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.1)

    def shell(self, command: str, background: bool = False, timeout: float = 300) -> subprocess.Popen[str]:
        """Run a command on the laptop, which stands beside the host and shares its loopback."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        env = {
            "HOME": "/srv/laptop",
            "TMPDIR": "/srv/laptop",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        line = ["nsenter", "--target", children[0], "--net", "--mount", "--pid", "bash", "-c"]
        line.append(f"cd /srv/laptop/raylab && {command}")
        run = subprocess.Popen(
            line, env=env | {"LANG": "C.UTF-8"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if not background:
            self.output, _ = run.communicate(timeout=timeout)
        return run

    def do(self, command: str, timeout: float = 300) -> str:
        """Run a command on the laptop to its end, which must be a good one; return what it printed."""
        run = self.shell(command, timeout=timeout)
        assert run.returncode == 0, f"{command}\n{self.output}"
        return self.output

    def stop(self) -> None:
        """End the machine: the first of its processes is killed, and with it all the others."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for left in (self.folder / "node", SOCKETS):
            shutil.rmtree(left, ignore_errors=True)
