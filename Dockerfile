# syntax=docker/dockerfile:1
#
# The server as an image: small and for CPUs as it stands, for GPUs by another index of torch.
#
#   docker build -t protuning .
#   docker build -t protuning:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#
# BASE takes a digest as well (python:3.11-slim-bookworm@sha256:...), for builds that must not move.
# TORCH_INDEX is where torch and torchvision come from; both have to come from the same place.
# CONSTRAINTS pins everything that pip installs.

ARG BASE=docker.io/library/python:3.11-slim-bookworm

# What the image needs of others. It changes with pyproject.toml only, so that it stays cached.
FROM ${BASE} AS dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG CONSTRAINTS=deploy/constraints.txt
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/protuning
WORKDIR /build
COPY ${CONSTRAINTS} constraints.txt
# Without what torch needs itself: that comes from PyPI below, with everything else.
RUN pip --python /opt/protuning/bin/python install --no-deps --index-url "${TORCH_INDEX}" \
    --constraint constraints.txt torch torchvision
COPY pyproject.toml deploy/runtime-requirements.py ./
RUN python3 runtime-requirements.py pyproject.toml > requirements.txt \
    && pip --python /opt/protuning/bin/python install \
    --constraint constraints.txt --requirement requirements.txt

# Our own code as a wheel.
FROM ${BASE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY . .
RUN pip wheel --no-deps --wheel-dir /dist .

FROM ${BASE}
LABEL org.opencontainers.image.title="protuning" \
    org.opencontainers.image.description="One frozen vision backbone in memory, a thousand tasks on it" \
    org.opencontainers.image.licenses="Apache-2.0"
# Engines that compile the backbone do so when they start, and need a compiler then.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /var/lib/protuning
COPY --from=dependencies /opt/protuning /opt/protuning
COPY examples/sample/test_resnet.safetensors deploy/healthcheck.py /usr/share/protuning/
COPY --from=wheel /dist /usr/share/protuning/
RUN pip --python /opt/protuning/bin/python install --no-cache-dir --no-deps \
    /usr/share/protuning/protuning-*.whl

# The sample backbone is what is served unless asked otherwise: nothing is downloaded at the start.
# What is written goes to /var/lib/protuning, which is kept, and to /tmp. Engines that compile load
# libraries from both: a tmpfs on /tmp needs the option exec.
ENV PATH=/opt/protuning/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/var/lib/protuning/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/protuning/cache/inductor \
    PROTUNING_HOST=0.0.0.0 \
    PROTUNING_PORT=8000 \
    PROTUNING_BACKBONE=test_resnet \
    PROTUNING_WEIGHTS=/usr/share/protuning/test_resnet.safetensors \
    PROTUNING_INDEX=sqlite:////var/lib/protuning/index.db \
    PROTUNING_STORE=/var/lib/protuning/store \
    PROTUNING_CACHE_DIR=/var/lib/protuning/cache
USER 10001:10001
VOLUME /var/lib/protuning
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "/usr/share/protuning/healthcheck.py"]
ENTRYPOINT ["protuning"]
CMD ["serve"]
