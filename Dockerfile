# A detector's predictions and server, as a user without rights.
#   docker build -t realnet .                                       for the CPU
#   docker build -t realnet --build-arg TORCH=cu126 .               for CUDA
#   docker run --rm -v $PWD:/work realnet predict --detector bolts.realnet --input photos
#   docker run --rm -v $PWD:/work -p 8000:8000 realnet serve --detector bolts.realnet --host 0.0.0.0
FROM python:3.12-slim
ARG TORCH=cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY guided_diffusion guided_diffusion
COPY realnet realnet
COPY experiments experiments
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${TORCH} \
    && pip install --no-cache-dir '.[serve]' \
    && pip uninstall -y opencv-python \
    && pip install --no-cache-dir opencv-python-headless \
    && rm -rf /source/*
RUN useradd --create-home realnet && mkdir /work && chown realnet /work
USER realnet
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["realnet"]
