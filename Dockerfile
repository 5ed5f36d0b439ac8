# docker build -t vol3d .    (in the repository, on a machine with internet)
# docker run --rm --gpus all -v "$PWD/data:/data" vol3d segment /data/run /data/study --prompt liver --out /data/masks
FROM python:3.11-slim-bookworm

# gcc, g++: torch.compile, DeepSpeed's ops and some wheels
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/*

ARG EXTRAS=tracking,view,monai
WORKDIR /opt/vol3d
COPY pyproject.toml README.md LICENSE ./
COPY vol3d vol3d
COPY preprocessing preprocessing
COPY configs configs
RUN pip install --no-cache-dir ".[${EXTRAS}]"

# nothing is downloaded at run time
ENV HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 PYTHONUNBUFFERED=1 VOL3D_CACHE_HOME=/tmp/vol3d
RUN useradd --create-home vol3d
USER vol3d
WORKDIR /data

ENTRYPOINT ["vol3d"]
CMD ["--help"]
