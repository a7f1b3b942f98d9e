# One image for all services: worker, Flower, sandbox and command line.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements/run.txt requirements/run.txt
RUN /opt/venv/bin/pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY worker worker
COPY amplify_import.py .
RUN /opt/venv/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home worker
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER worker
WORKDIR /home/worker
# On SIGTERM, a worker finishes its calls in progress and releases everything else.
STOPSIGNAL SIGTERM
CMD ["celery", "-A", "worker", "worker"]
