"""Checks of the cluster as a whole: CPUs, token, the working directory's upload, W&B."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.parse
import urllib.request

from raylab.preflight.asked import Asked
from raylab.preflight.base import Check, Finding, Seen, Task, nodes_of, together

TIMEOUT_S = 5.0
"""For an answer from W&B."""
UNREACHED = "there is a key, and no answer from"
"""How a look begins that found W&B not to be reached."""
WARN_UPLOAD = 20 * 2**20
"""Bytes: more than a project's code has."""


class Cpus(Check):
    """CPUs enough for the job's actors and tasks."""

    name = "CPUs"
    way_out = "add nodes, or ask for fewer (--pools.<step>.min-actors, .num-cpus, --parallel.workers): the job waits " \
        "until the cluster has grown, and on a cluster of fixed size for ever"  # fmt: skip

    def judge(self, seen: Seen) -> Finding:
        """Compare the sums."""
        has = sum(one.get("CPU", 0.0) for one in seen.cluster.nodes.values())
        text = f"{nodes_of(len(seen.cluster.nodes))}, {has:g} CPUs; the job needs {seen.asked.cpus:g}"
        if seen.cluster.is_own:
            return self.ok(f"{text}: on a machine of your own Ray is told that there are enough")
        return self.warn(text) if seen.asked.cpus > has else self.ok(text)


class Token(Check):
    """Whoever reaches the cluster's ports cannot run code there."""

    name = "token"
    way_out = "ray get-auth-token --generate, and RAY_AUTH_MODE=token for ray start and for ray job submit"

    def judge(self, seen: Seen) -> Finding:
        """Look at Ray's authentication mode."""
        if seen.cluster.is_own:
            return self.ok("a Ray of this machine alone, gone when the job is")
        if not seen.cluster.token:
            return self.warn("requests without a token are served: whoever reaches its ports can run code there")
        return self.ok("requests without the token are refused")


class Upload(Check):
    """The working directory can be sent with a job."""

    name = "upload"
    way_out = "keep data out of the working directory, or name it in .rayignore (as .gitignore)"

    def judge(self, seen: Seen) -> Finding:
        """Compare with Ray's limit, which holds for the packed directory."""
        text = f"ray job submit --working-dir . sends {seen.cluster.upload_bytes / 2**20:.2f} MiB"
        if seen.cluster.upload_bytes >= seen.cluster.upload_limit:
            return self.fail(f"{text}, Ray takes {seen.cluster.upload_limit / 2**20:.0f}")
        return self.warn(text) if seen.cluster.upload_bytes > WARN_UPLOAD else self.ok(text)


class WandB(Check):
    """W&B is reached, or not needed. Never a failure: a run whose W&B does not answer goes on, and keeps its curves."""

    name = "W&B"
    way_out = "open the way to it, or WANDB_MODE=offline: then the run is kept in its folder, and wandb sync sends it"

    def applies(self, asked: Asked) -> bool:
        """It is tracked there."""
        return asked.project is not None

    def look(self, task: Task) -> str:
        """Return how a run on this host would be tracked."""
        address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        if os.environ.get("WANDB_MODE", "online") != "online":
            return f"{os.environ['WANDB_MODE']}, by WANDB_MODE"
        if not (os.environ.get("WANDB_API_KEY") or _has_login(address)):
            return "offline: there is no key; wandb sync sends the run later"
        try:
            urllib.request.urlopen(address, timeout=TIMEOUT_S).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except OSError as error:
            return f"{UNREACHED} {address} ({error})"
        return f"online, {address}"

    def judge(self, seen: Seen) -> Finding:
        """The first worker may be on any node."""
        if any(one.startswith(UNREACHED) for one in seen.nodes.values()):
            return self.warn(together(seen.nodes))
        if len(set(seen.nodes.values())) > 1:
            return self.warn(together(seen.nodes), "give all nodes the key: env_vars of the job's runtime environment")
        return self.ok(next(iter(seen.nodes.values())))


def _has_login(address: str) -> bool:
    """Tell whether ``wandb login`` left a key on this host."""
    try:
        return netrc.netrc().authenticators(urllib.parse.urlsplit(address).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False
