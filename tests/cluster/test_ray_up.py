"""`ray up` over SSH, `ray job submit`, `ray down`: the real ones, with cluster/local.yaml as it is."""

from __future__ import annotations

import json
import re

import pytest
from cluster.host import Host, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(bool(missing()), reason=f"a host by namespaces: {missing()}"),
]

SOURCE = "--source 'miniworld://?rows=200&seed=7'"
ASK = "curl -s -o /dev/null -w '%{{http_code}}' {header} http://127.0.0.1:{port}/api/jobs/"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A machine on which the setup commands of cluster/local.yaml have run, in a home that was empty."""
    made = Host(tmp_path_factory.mktemp("host"))
    try:
        made.install("cluster/local.yaml")
        made.boot()
        made.do("ray get-auth-token --generate")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def cluster(host):
    """The cluster, up; its dashboard is reached by `ray dashboard`, an SSH tunnel to port 8266."""
    host.do("ray up --yes --no-config-cache cluster/local.yaml")
    tunnel = host.shell("exec ray dashboard --remote-port 8265 --port 8266 cluster/local.yaml", background=True)
    try:
        host.do("for i in $(seq 60); do curl -s -o /dev/null http://127.0.0.1:8266 && exit; sleep 1; done; exit 1")
        yield host
    finally:
        tunnel.kill()


def submit(host: Host, line: str, options: str = "") -> str:
    submit = f"ray job submit --address http://127.0.0.1:8266 --working-dir . {options} --"
    return host.do(f"export RAY_AUTH_MODE=token; {submit} {line}", timeout=900)


def test_the_setup_commands_install_what_the_pins_say(host):
    pins = dict(re.findall(r"^([\w-]+)===?([\d.]+)$", (host.folder / "node/raylab/constraints.txt").read_text(), re.M))
    listed = host.do("/srv/node/raylab/.venv/bin/python -m pip list --format json --disable-pip-version-check")
    found = {package["name"].lower(): package["version"] for package in json.loads(listed.splitlines()[0])}
    assert {"ray", "torch", "open-clip-torch"} <= pins.keys() & {name.replace("_", "-") for name in found}
    differing = {name for name, pin in pins.items() if name in found and found[name].partition("+")[0] != pin}
    assert not differing


def test_a_second_setup_has_nothing_to_do(host):
    """The host has no network: an installation would fail."""
    host.do("HOME=/srv/node bash /srv/node/raylab/cluster/node.sh setup label,train,evaluate", timeout=20)


def test_without_the_token_nothing_is_told(cluster):
    assert cluster.do(ASK.format(header="", port=8266)) == "401"
    assert cluster.do(ASK.format(header="-H 'Authorization: Bearer wrong'", port=8266)) in ("401", "403")
    header = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    assert cluster.do(ASK.format(header=header, port=8266)) == "200"


def test_the_dashboard_listens_on_loopback_alone(cluster):
    listening = cluster.do("ss -Hltn 'sport = :8265'")
    assert listening.split()[3] == "127.0.0.1:8265"


def test_the_token_is_its_owners_alone(cluster):
    assert cluster.do("stat -c %a /srv/node/.ray/auth_token").strip() == "600"


def test_a_job_labels(cluster):
    submit(cluster, "python jobs/build_kb.py --catalogues miniworld:// --out /srv/node/kb")
    out = submit(cluster, f"python jobs/label.py --recipe miniworld {SOURCE} --kb /srv/node/kb --out /srv/node/labels")
    last = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert last["rows_in"] == 200 == last["labelled"] + last["rejected"] + last["failed"]
    assert last["failed"] == 0


def test_a_job_trains_on_its_labels(cluster):
    data = f"--labels /srv/node/labels {SOURCE} --kb /srv/node/kb --out /srv/node/mofi"
    out = submit(cluster, f"python jobs/train.py --recipe mofi_miniworld {data} --steps 4 --batch 32")
    last = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert last["steps"] == 4
    assert cluster.do("ls /srv/node/mofi/model").split()


def test_a_changed_raylab_goes_with_a_job(cluster):
    cluster.do("echo 'MARK = 7' >> raylab/__init__.py")
    ask = """python -c 'import raylab; print("mark", getattr(raylab, "MARK", None))'"""
    assert "mark None" in submit(cluster, ask)
    assert "mark 7" in submit(cluster, ask, """--runtime-env-json '{"py_modules": ["raylab"]}'""")


def test_the_end_leaves_no_process(cluster):
    cluster.do("ray down --yes cluster/local.yaml")
    assert cluster.shell("pgrep -f '[r]aylet|[g]cs_server|[d]ashboard/dashboard.py'").returncode == 1, cluster.output
