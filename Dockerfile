# docker build -t lvexport . && docker run --rm -v "$PWD/dist:/work/dist" lvexport mobilevit --to coreml
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python3 -m venv /opt/lvexport
COPY pyproject.toml requirements.lock README.md LICENSE NOTICE ./
COPY export export
COPY models models
COPY training training
COPY converters converters
COPY validation validation
RUN /opt/lvexport/bin/python -m pip install --no-cache-dir -c requirements.lock ".[all]" \
 && /opt/lvexport/bin/python converters/apart.py \
 && /opt/lvexport/bin/python -m pip uninstall --yes pip \
 && find /opt/lvexport -name __pycache__ -type d -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="lvexport" \
      org.opencontainers.image.description="Light vision transformers to Core ML, Core AI, TFLite, ExecuTorch and ONNX, with proof" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /opt/lvexport /opt/lvexport
RUN python3 -m pip uninstall --yes pip setuptools wheel \
 && useradd --create-home --uid 1000 lvexport \
 && mkdir -p /work/dist \
 && chown -R lvexport:lvexport /work
ENV PATH=/opt/lvexport/bin:$PATH PYTHONUNBUFFERED=1
USER lvexport
WORKDIR /work
ENTRYPOINT ["lvexport"]
CMD ["--help"]
