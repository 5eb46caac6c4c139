# modfill on the CPU, as a user without rights. Needs no network, and no writable disk but the output folder:
#   docker build -t modfill .
#   docker run --rm --network none --read-only --user "$(id -u):$(id -g)" \
#     -v "$PWD/cohort:/in:ro" -v "$PWD/completed:/out" modfill complete /in -o /out
# As a BIDS App: docker run ... --entrypoint modfill-bids modfill /in /out participant
FROM python:3.12-slim-bookworm

# An index with torch's CPU builds makes the image several gigabytes smaller than PyPI's CUDA builds:
# --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=""

COPY . /source
RUN bash /source/containers/install /source /opt/modfill && rm -rf /source

# nothing is written outside the output folder: no bytecode, and no home folder is needed
ENV PATH=/opt/modfill/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin modfill
USER modfill
WORKDIR /tmp
ENTRYPOINT ["modfill"]
CMD ["--help"]
