# Airflow with this package, one image for every component of a deployment. See docs/deploy.md.
# To pin the content of the base image, name it with its digest:
# docker build --build-arg BASE_IMAGE=python:3.12.12-slim-bookworm@sha256:...
ARG BASE_IMAGE=python:3.12.12-slim-bookworm

FROM ${BASE_IMAGE} AS build

ENV UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements-tools.txt requirements-dev.txt requirements-deploy.txt ./
# Wheels only, each checked against its hash: a source package would run build steps that no hash covers.
RUN pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements-tools.txt \
    && uv venv --no-project /opt/venv \
    && uv pip sync --python /opt/venv/bin/python --compile-bytecode --only-binary :all: --require-hashes \
        requirements-deploy.txt
COPY pyproject.toml README.md LICENSE ./
COPY plugins plugins
RUN uv build --wheel --build-constraint requirements-dev.txt --require-hashes --out-dir dist . \
    && uv pip install --python /opt/venv/bin/python --compile-bytecode --no-deps dist/*.whl

FROM ${BASE_IMAGE}

ARG BASE_IMAGE
LABEL org.opencontainers.image.title="zoho-crm-delink" \
    org.opencontainers.image.description="Apache Airflow with the package zoho-crm-delink" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="${BASE_IMAGE}"

# User and group are those of Airflow's official image, which its Helm chart expects. Any other user in group 0 works
# too, as on OpenShift.
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
