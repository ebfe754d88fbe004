# docker build -t REGISTRY/minirec:0.1.0 .                        with CUDA, for the GPU workers
# docker build -t REGISTRY/minirec:0.1.0-cpu --build-arg FLAVOR=cpu .
# All Python packages but torch for CPUs come by hash from locks/. The driver is that of the host
# (NVIDIA's container toolkit); CUDA's libraries are Python packages of the GPU lock.
FROM python:3.11-slim-bookworm

ARG FLAVOR=gpu

# gcc: Triton compiles its launchers. libnuma1: vLLM's CPU build. wget: KubeRay's probes.
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev libnuma1 make wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 minirec \
    && install -d -o minirec -g minirec /opt/minirec

USER minirec
WORKDIR /opt/minirec
COPY --chown=minirec:minirec . .
# A container that starts anew has no byte-code but that of its image.
RUN UV_COMPILE_BYTECODE=1 make install FLAVOR=${FLAVOR} && rm -rf /home/minirec/.cache

ENV PATH=/opt/minirec/.venv/bin:$PATH \
    RAY_AUTH_MODE=token \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["minirec", "--help"]
