# A detector's predictions and server, as a user without rights. Not tried: where this was written, no Docker runs.
#   docker build -t realnet .                                                    for the CPU
#   docker build -t realnet --build-arg TORCH=cu126 .                            for CUDA
#   docker build -t realnet --build-arg EXTRAS=serve,export .                    also for ONNX and OpenVINO files
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" realnet predict --detector bolts.realnet --input photos
#   docker run --rm -v "$PWD:/work" -p 127.0.0.1:8000:8000 realnet serve --detector bolts.realnet --host 0.0.0.0
FROM python:3.12-slim
ARG TORCH=cpu
ARG EXTRAS=serve
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${TORCH}
WORKDIR /source
COPY . .
# opencv-python needs display libraries that the image lacks
RUN pip install --no-cache-dir ".[${EXTRAS}]" \
    && pip uninstall -y opencv-python \
    && pip install --no-cache-dir opencv-python-headless
RUN useradd --create-home realnet && mkdir /work && chown realnet /work
USER realnet
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["realnet"]
