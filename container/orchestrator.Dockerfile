# The orchestrator's image, for compose.yaml: nanokimi and its libraries. Agents have their own.
# BASE_IMAGE needs Python >= 3.11 as python3: python:*-slim, or Debian with the package python3.
ARG BASE_IMAGE=python:3.13-slim

# Put together in a stage of its own, so that no setting of the build stays behind.
FROM ${BASE_IMAGE} AS assembled
COPY pyproject.toml /src/
COPY container/ /src/container/
# `nanokimi build --orchestrator` brings the libraries along in container/lib; by hand they come
# from the index. pip goes in with them: the orchestrator uses it to build the agent's image.
RUN mkdir -p /opt/nanokimi/lib \
    && if [ -d /src/container/lib ]; then \
        cp -R /src/container/lib/. /opt/nanokimi/lib/; \
    else \
        python3 -c 'import tomllib; print(*tomllib.load(open("/src/pyproject.toml", "rb"))["project"]["dependencies"], "pip", sep="\n")' \
            > /src/requirements.txt \
        && python3 -m pip install --no-cache-dir --no-compile --only-binary=:all: \
            --target /opt/nanokimi/lib -r /src/requirements.txt; \
    fi \
    && python3 /src/container/precompile.py /opt/nanokimi/lib
# Laid out like a source checkout: `nanokimi build` finds the files of the agent's image in it.
COPY runner/ /opt/nanokimi/app/runner/
COPY container/Dockerfile container/precompile.py container/requirements.txt /opt/nanokimi/app/container/
COPY entrypoint.sh /opt/nanokimi/app/
RUN python3 /src/container/precompile.py /opt/nanokimi/app/runner

FROM ${BASE_IMAGE}
COPY --from=assembled /opt/nanokimi/ /opt/nanokimi/
ENV LANG=C.UTF-8 PYTHONPATH=/opt/nanokimi/app:/opt/nanokimi/lib NANOKIMI_DATA=/data
# The command proves that all is there, and leaves the byte code of the standard library behind
# where the base has none.
RUN printf '#!/bin/sh\nexec python3 -P -m runner "$@"\n' > /usr/local/bin/nanokimi \
    && chmod 0755 /usr/local/bin/nanokimi \
    && mkdir /data \
    && nanokimi --version \
    && python3 -P -c 'import runner.api.server, runner.sandbox.build'
WORKDIR /data
EXPOSE 8420
ENTRYPOINT ["nanokimi"]
CMD ["serve"]
