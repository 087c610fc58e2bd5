# syntax=docker/dockerfile:1
# One environment, two targets: `gateway` answers HTTP and serves forecasts, `worker` fine-tunes and reads large files.
#   docker build --target gateway -t temper-gateway .
#   docker build --target worker -t temper-worker .
# TORCH_INDEX_URL: an extra package index for pip, where you want another build of torch (a CUDA version, CPU only).
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/temper
WORKDIR /src
# What the code needs changes seldom: it is a layer of its own, made before the code is there.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir tsfm app worker migrations \
    && /opt/temper/bin/pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -c constraints.txt . \
    && /opt/temper/bin/pip uninstall --yes temper
COPY tsfm tsfm
COPY app app
COPY worker worker
COPY migrations migrations
RUN /opt/temper/bin/pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim AS base
RUN useradd --create-home --uid 10001 temper && install -d -o temper -g temper -m 700 /var/lib/temper
COPY --from=build /opt/temper /opt/temper
ENV PATH=/opt/temper/bin:$PATH PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE TEMPER_HOME=/var/lib/temper
# As app/allocator.py has it for a service.
ENV MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456
USER temper
WORKDIR /var/lib/temper
VOLUME /var/lib/temper

FROM base AS gateway
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["uvicorn", "--factory", "app.main:create_app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--no-server-header"]

FROM base AS worker
# SIGTERM gives the running job back, with its state saved: another worker goes on.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
