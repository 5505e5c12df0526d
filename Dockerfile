# CPU image. For a GPU, install the torch build for your CUDA version first:
#   docker build --build-arg TORCH="torch --index-url <PyTorch's index for your CUDA version>" -t slpd .
# For Apptainer: Apptainer.def.
FROM python:3.11-slim
ARG TORCH=""
WORKDIR /opt/slpd_toolkit
COPY . .
RUN if [ -n "$TORCH" ]; then pip install --no-cache-dir $TORCH; fi \
 && pip install --no-cache-dir -c constraints.txt '.[timm,anndata,parquet,view]'
WORKDIR /data
ENTRYPOINT ["slpd"]
