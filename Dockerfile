# The server. BACKEND is cpu, cuda12 or cuda13. The CUDA libraries come with the Python packages; the host has the driver:
#   docker build --build-arg BACKEND=cuda13 -t mlx-qwen-embeddings . && docker run --gpus all --stop-timeout 45 -p 127.0.0.1:8000:8000 ...
# Accepted requests have 30 seconds after SIGTERM (MLX_QWEN_DRAIN_SECONDS); by default docker stop kills after 10.
FROM python:3.12-slim-bookworm

ARG BACKEND=cpu

# On arm64 MLX computes with the system's OpenBLAS; x86_64 gets MKL from the cpu extra.
# hadolint ignore=DL3008
RUN if [ "$BACKEND" = cpu ] && [ "$(uname -m)" = aarch64 ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends libopenblas0-pthread \
        && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mlx_qwen_embeddings ./mlx_qwen_embeddings
# pip installs this folder, and pyproject.toml bounds the versions of its dependencies.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[cli,server,chat-template,${BACKEND}]"

RUN useradd --create-home --uid 10001 server \
    && install --directory --owner=server /models
USER 10001
WORKDIR /home/server

# Downloaded models outlive the container. Inside, the server has to listen on every address: publish its port with care.
VOLUME /models
ENV HF_HOME=/models \
    MLX_QWEN_HOST=0.0.0.0 \
    MLX_QWEN_PORT=8000
EXPOSE 8000
# Asks the configured port, without any proxy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ['MLX_QWEN_PORT']), timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mlx-qwen"]
CMD ["serve"]
