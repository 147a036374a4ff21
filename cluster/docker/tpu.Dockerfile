# The environment of TPU hosts (torch-xla and libtpu), with the same script and pins as `ray up`:
#     docker build -f cluster/docker/tpu.Dockerfile -t REGISTRY/raylab-tpu .
FROM python:3.11-slim-bookworm

# wget: KubeRay's probes.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray \
    # KubeRay starts Ray through a login shell, whose profile would forget the PATH below.
    && echo 'PATH=/home/ray/raylab/.venv/bin:$PATH' > /etc/profile.d/raylab.sh
USER 1000
WORKDIR /home/ray/raylab

# The long layer: only a changed pin makes it again.
COPY --chown=1000:1000 pyproject.toml constraints-xla.txt README.md LICENSE ./
COPY --chown=1000:1000 cluster/node.sh cluster/node.sh
COPY --chown=1000:1000 raylab/__init__.py raylab/__init__.py
RUN bash cluster/node.sh setup tpu,evaluate,gcp

# The install points here, so code is only copied.
COPY --chown=1000:1000 raylab raylab
COPY --chown=1000:1000 jobs jobs
ENV PATH=/home/ray/raylab/.venv/bin:$PATH RAY_AUTH_MODE=token
