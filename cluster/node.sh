#!/usr/bin/env bash
# What every node of a cluster runs, whoever started it: the one place for its environment, the token and the ports.
#
#   node.sh setup EXTRAS     raylab[EXTRAS] at the pinned versions, into .venv beside it; at once if it is there already
#   node.sh head [OPTION]    start Ray's head, dashboard on loopback; options are those of `ray start`
#   node.sh worker [OPTION]  join the head at $RAY_HEAD_IP, which Ray sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "node.sh: $*" >&2
  exit 1
}

# Ray wants one minor version of Python on all nodes, and the pins were tried on 3.11. Where a machine has another, uv brings it.
make_venv() {
  rm -rf .venv
  if command -v python3.11 >/dev/null && python3.11 -c 'import ensurepip' 2>/dev/null; then
    python3.11 -m venv .venv
    return
  fi
  python3 -c 'import ensurepip' 2>/dev/null ||
    { sudo -n apt-get -qq -o DPkg::Lock::Timeout=600 update && sudo -n apt-get -qq -y -o DPkg::Lock::Timeout=600 install python3-venv; } ||
    die "install Python 3.11 with its venv module (Debian: python3.11-venv), then start again"
  python3 -m venv .uv
  .uv/bin/python -m pip install --quiet uv
  .uv/bin/uv venv --quiet --seed --python 3.11 .venv
}

# `ray down` and `ray exec` look for `ray` in a shell of theirs; without it, `ray down` leaves Ray running on your machines.
show_ray() {
  local line="export PATH=\"$PWD/bin:\$PATH\" RAY_AUTH_MODE=token # raylab"
  mkdir -p bin
  ln -sf ../.venv/bin/ray bin/ray
  grep -qsxF "$line" ~/.bashrc || echo "$line" >>~/.bashrc
}

setup() {
  local extras="$1" constraints=constraints.txt wanted
  [[ ",$extras," != *,tpu,* ]] || constraints="constraints-xla.txt"
  wanted="$extras $(cat pyproject.toml "$constraints" cluster/node.sh | sha256sum)"
  [ "$(cat .venv/.raylab-node 2>/dev/null)" = "$wanted" ] && return
  make_venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" -e ".[$extras]"
  show_ray
  echo "$wanted" >.venv/.raylab-node
}

start() {
  [ -s ~/.ray/auth_token ] || die "no token in ~/.ray/auth_token: ray get-auth-token --generate, where you start the cluster from"
  chmod 700 ~/.ray
  chmod 600 ~/.ray/auth_token
  export RAY_AUTH_MODE=token
  # shellcheck disable=SC1091  # made by setup
  . .venv/bin/activate
  ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  ray stop
  ray start "$@"
}

# Ray's autoscaler keeps to itself how far the cluster can grow; jobs and Ray Train want to know whether GPUs will come.
tell_ceiling() {
  python -m raylab.ceiling "$1" 127.0.0.1:6379 || echo "node.sh: nobody can tell how far this cluster grows: jobs wait for it" >&2
}

# On a spot machine: Ray hears of its end when the cloud announces it.
watch_spot() {
  pkill -u "$(id -u)" -f -- '-m raylab\.spot ' || true
  nohup python -m raylab.spot "$RAY_HEAD_IP:6379" >spot.log 2>&1 </dev/null &
}

# Not in a list with &&: `set -e` would be off within what stands there.
what="${1:-}"
shift || true
case "$what" in
  setup) setup "${1:?which extras of pyproject.toml?}" ;;
  head)
    start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config="$HOME/ray_bootstrap_config.yaml" "$@"
    tell_ceiling "$HOME/ray_bootstrap_config.yaml"
    ;;
  worker)
    start --address="${RAY_HEAD_IP:?}:6379" "$@"
    watch_spot
    ;;
  *) die "setup EXTRAS, head or worker, not: ${what:-nothing}" ;;
esac
