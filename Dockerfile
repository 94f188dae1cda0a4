# An image for Kubernetes and for machines with Docker or Podman:
#   docker build --tag segtune:0.1.0 .
# Every node of a cluster runs the same image, so Python, Ray and segtune are the same on all.
# With GPUs, the host needs NVIDIA's driver and container toolkit. The wheels of torch bring CUDA's
# libraries; the base image brings the variables by which the toolkit passes the driver through.
ARG CUDA=12.8.1
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04

ARG RAY=2.60.0
# Ubuntu 24.04 has Python 3.12. The versions of its packages are those of the base image's release.
# wget: KubeRay asks the pods with it whether Ray is healthy.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu's image has a user of number 1000, `ubuntu`, which is not root.
ENV PATH=/opt/segtune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NO_ALBUMENTATIONS_UPDATE=1
RUN python3 -m venv /opt/segtune && mkdir /shared && chown 1000:1000 /shared

# The dependencies first: a change of segtune's own files does not install them again.
WORKDIR /opt/src
COPY pyproject.toml README.md LICENSE ./
RUN mkdir segtune \
    && touch segtune/__init__.py \
    && pip install --no-cache-dir . "ray[default,train,tune]==${RAY}" \
    && pip uninstall --yes segtune
COPY segtune segtune
RUN pip install --no-cache-dir --no-deps .

COPY configs /home/ubuntu/configs
COPY search_spaces /home/ubuntu/search_spaces
USER 1000
WORKDIR /home/ubuntu
# `docker run segtune:0.1.0 search --space configs/loss_weights.yaml`. KubeRay replaces it.
ENTRYPOINT ["segtune"]
CMD ["--help"]
