# The service as an image. docs/deployment.md says how to build it and what is in it.
#   docker build -t coordserve:dev .                              for CPUs
#   docker build -t coordserve:dev-cuda --build-arg variant=cuda .
ARG base=python:3.11-slim-bookworm
ARG variant=cpu

# -- everything that pip installs but the service itself: the large layer, the same for every version of ours ---------
FROM ${base} AS dependencies
ARG variant
# Where torch for CPUs comes from; set to nothing if pip finds it elsewhere. That of PyPI is made for CUDA.
ARG torch_index=https://download.pytorch.org/whl/cpu
# pip works from a folder of its own and stays behind. The secret is a pip.conf for closed networks; no layer keeps it.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt deploy/image/requirements.py /opt/source/
WORKDIR /opt/source
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false \
    python requirements.py pyproject.toml otel gpu > requirements.txt \
    && case "${variant}" in \
        cpu) index=${torch_index} ;; \
        cuda) index= ;; \
        *) echo "variant is cpu or cuda, not ${variant}" >&2; exit 2 ;; \
    esac \
    && grep '^torch' requirements.txt > torch.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt ${index:+--extra-index-url "${index}"} --requirement torch.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt --requirement requirements.txt \
    # Its own tests, compiled, which some builds of torch bring: 120 MB.
    && rm -rf /opt/venv/lib/python3.*/site-packages/torch/test /opt/venv/lib/python3.*/site-packages/torch/bin/test_* \
        /opt/venv/lib/python3.*/site-packages/torch/bin/*Test

# -- the service itself ----------------------------------------------------------------------------------------------
FROM dependencies AS project
COPY README.md LICENSE ./
COPY models models
COPY service service
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf,required=false \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-deps --target /opt/coordserve .

# -- what both variants run on -----------------------------------------------------------------------------------------
FROM ${base} AS runtime
# torch.compile calls them while the service runs: g++ for CPUs and packages, gcc for what Triton launches kernels with.
# Unpinned: whichever the base image's Debian has fixed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ gcc \
    && rm -rf /var/lib/apt/lists/*
# The one place that is written to besides /tmp. Group 0, as an arbitrary user (OpenShift) has no other name here.
RUN useradd --uid 10001 --gid 0 --no-log-init --no-create-home --home-dir /var/cache/coordserve coordserve \
    && mkdir /var/cache/coordserve \
    && chown 10001:0 /var/cache/coordserve \
    && chmod 0770 /var/cache/coordserve
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/coordserve /opt/coordserve
COPY deploy/image/entrypoint /usr/local/bin/coordserve-entrypoint
COPY deploy/image/healthcheck.py /usr/local/bin/coordserve-healthcheck
COPY LICENSE /usr/share/doc/coordserve/LICENSE
ARG model=models/bundled/digits
COPY ${model} /opt/model
# For GPUs: the driver comes from the node, the rest of CUDA with torch, whose headers AOTInductor looks for in CUDA_HOME.
ARG variant
RUN [ "${variant}" = cpu ] || { \
        header=$(find /opt/venv -path '*/nvidia/*/include/cuda.h' -print -quit) \
        && ln -s "${header%/include/cuda.h}" /opt/cuda; \
    }
# USER names who we are where the uid has no name: Inductor asks.
ENV PATH=/opt/coordserve/bin:/opt/venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/coordserve \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/cache/coordserve \
    USER=coordserve \
    XDG_CACHE_HOME=/var/cache/coordserve \
    XDG_CONFIG_HOME=/var/cache/coordserve/config \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/coordserve/inductor \
    TRITON_CACHE_DIR=/var/cache/coordserve/triton \
    CUDA_HOME=/opt/cuda \
    COORDSERVE_MODEL=/opt/model \
    COORDSERVE_HOST=0.0.0.0

# -- a package compiled into the image, if asked for ---------------------------------------------------------------------
FROM runtime AS packages
ARG variant
# yes: compile the model here. It serves on CPUs with the instruction sets of this one, and on no other.
ARG package=no
# Cores that the service will have: part of a larger network's package. The digits always use one.
ARG package_cores=2
RUN mkdir /opt/packages && if [ "${package}" = yes ]; then \
        [ "${variant}" = cpu ] || { echo "package=yes needs variant=cpu: there is no GPU in a build" >&2; exit 2; }; \
        taskset --cpu-list "0-$((package_cores - 1))" coordserve compile --device cpu --cache-dir /opt/packages \
        && chmod -R a+rX,go-w /opt/packages; \
    fi

# -- the image -------------------------------------------------------------------------------------------------------------
FROM runtime
COPY --from=packages /opt/packages /opt/packages
ARG version=0.1.0
ARG revision=unknown
ARG created=unknown
ARG base
LABEL org.opencontainers.image.title="coordserve" \
      org.opencontainers.image.description="Image classification with Coordinate Attention networks over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${version}" \
      org.opencontainers.image.revision="${revision}" \
      org.opencontainers.image.created="${created}" \
      org.opencontainers.image.base.name="${base}"
WORKDIR /var/cache/coordserve
USER 10001:0
EXPOSE 8000
# The same question as Kubernetes' liveness probe, which asks it itself and ignores this one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/usr/local/bin/coordserve-healthcheck"]
# As process 1 a signal that comes before its handler is lost, and nobody takes in orphans; dumb-init minds both.
ENTRYPOINT ["dumb-init", "--single-child", "--", "coordserve-entrypoint"]
CMD ["serve"]
