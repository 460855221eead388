# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
COPY requirements/runtime.txt /tmp/runtime.txt
RUN python -m venv /opt/geko \
 && /opt/geko/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/runtime.txt \
 && /opt/geko/bin/python -m pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /app geko \
 && install -d -m 700 -o geko -g geko /var/lib/geko
COPY --from=build /opt/geko /opt/geko
WORKDIR /app
COPY config/geko.toml config/geko.toml
COPY sql sql
COPY geko_proxy geko_proxy
RUN python -m compileall -q geko_proxy
USER geko
ENV PATH=/opt/geko/bin:$PATH PYTHONUNBUFFERED=1 GEKO_SERVER_HOST=0.0.0.0 \
    GEKO_SERVER_HOME=/var/lib/geko GEKO_LOGGING_FORMAT=json
EXPOSE 3002
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('GEKO_SERVER_PORT', '3002') + '/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "geko_proxy"]
CMD ["serve"]
