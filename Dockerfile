# Airflow with this product in it, for every part of a deployment: docs/deploy.md tells how to build and run it.
# The base is named twice, by the same tag; to be sure of its bytes, put its digest behind both: @sha256:...
FROM python:3.12.12-slim-bookworm AS build

ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements-tools.txt requirements-dev.txt requirements-deploy.txt ./
# Wheels alone, each held against its hash: a source package would run steps that no hash covers.
RUN pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements-tools.txt \
    && uv venv --no-project /opt/venv \
    && uv pip sync --python /opt/venv/bin/python --compile-bytecode --only-binary :all: --require-hashes \
        requirements-deploy.txt
COPY pyproject.toml README.md LICENSE ./
COPY plugins plugins
RUN uv build --wheel --build-constraint requirements-dev.txt --require-hashes --out-dir dist . \
    && uv pip install --python /opt/venv/bin/python --compile-bytecode --no-deps dist/*.whl

FROM python:3.12.12-slim-bookworm

# The user and the group are those of Airflow's own image, which its Helm chart counts on. Any other user will do who is
# in group 0, as OpenShift gives them.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'tini=0.19.*' \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --home-dir /opt/airflow --no-create-home --shell /usr/sbin/nologin airflow \
    && install --directory --owner 50000 --group 0 --mode 0775 /opt/airflow /opt/airflow/logs

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USER=airflow

COPY --from=build /opt/venv /opt/venv
COPY deploy/entrypoint.sh /entrypoint
COPY dags /opt/airflow/dags
COPY include/jobs /opt/airflow/include/jobs
COPY include/sql /opt/airflow/include/sql

USER 50000:0
WORKDIR /opt/airflow
EXPOSE 8080
ENTRYPOINT ["/usr/bin/tini", "--", "/entrypoint"]
CMD ["airflow", "version"]
