# One image for all services: worker, relay, Flower, metrics exporter, sandbox and command line.
FROM docker.io/library/python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# `otel` adds the packages that send traces.
ARG REQUIREMENTS=run
# Nothing is installed in the running image, so its environment has no pip.
RUN python -m venv --without-pip /opt/venv
COPY requirements requirements
RUN pip --python /opt/venv install --require-hashes -r requirements/${REQUIREMENTS}.txt
# botocore describes 400 services. Workers call two, `plan` two, relays three, and credentials
# need three more.
RUN cd /opt/venv/lib/python3*/site-packages/botocore/data && \
    find . -mindepth 1 -maxdepth 1 -type d \
        ! -name amplify ! -name amplifybackend ! -name sso ! -name sso-oidc ! -name sts \
        ! -name events ! -name sns ! -name sqs -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY worker worker
COPY amplify_import amplify_import
RUN pip --python /opt/venv install --no-deps --no-build-isolation .

FROM docker.io/library/python:3.11-slim
RUN useradd --uid 10001 --create-home worker
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER worker
WORKDIR /home/worker
# Judges a worker that serves its health; says nothing about a container without that port.
HEALTHCHECK --interval=20s --timeout=10s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; port = os.environ.get('IMPORTS_METRICS_PORT') or '0'; port == '0' or r.urlopen(f'http://127.0.0.1:{port}/livez', timeout=5)"]
# On SIGTERM, a worker finishes its calls in progress and releases everything else.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker", "worker"]
