#!/usr/bin/env bash
# GKE by xpk (https://github.com/AI-Hypercomputer/xpk): one JobSet, one pod per host, the same line in each.
#
#   CLUSTER=mine IMAGE=REGION-docker.pkg.dev/P/R/slif_jax:1 TPU_TYPE=v5litepod-16 MESH=data:16 \
#     WORKDIR=/data/runs/mine experiments/launch/gke_xpk.sh --epochs=50
#
# CLUSTER   of `xpk cluster create`.
# IMAGE     a container image with this package installed and /app as its copy of the repository.
# TPU_TYPE  TPU slices; SLICES of them (default 1). Or DEVICE_TYPE for GPU nodes, NODES of them (default 1).
# MESH      as many devices as all pods have together.
# WORKDIR   a folder that outlives the pods (`xpk storage`, Filestore or a bucket): pod 0 alone reads and writes it.
# NAME      of the workload; default slif-jax-<time>.
# PRESET    flagfile of the training, inside the image.
# RESTARTS  how often the JobSet starts again after a failure (default 10): training goes on from its checkpoint.
# What is on the command line is added at the end, and so wins.
#
# On TPU slices JAX reads the variables of GKE. On GPU nodes it asks Kubernetes: the image needs `pip install
# kubernetes`, and the pods' service account must be allowed to read pods, jobs and services of its namespace.
set -euo pipefail

: "${CLUSTER:?name of the cluster}" "${IMAGE:?container image}" "${MESH:?such as data:16}"
: "${WORKDIR:?a folder that outlives the pods}"
NAME=${NAME:-slif-jax-$(date +%m%d-%H%M%S)}
PRESET=${PRESET:-experiments/presets/ml-100k.flags}
if [[ -n ${TPU_TYPE:-} ]]; then
  hardware=(--tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}")
else
  hardware=(--device-type="${DEVICE_TYPE:?set TPU_TYPE or DEVICE_TYPE}" --num-nodes="${NODES:-1}")
fi

command=(python -m experiments.train --flagfile="$PRESET" --workdir="$WORKDIR" --mesh="$MESH"
  --multihost=auto --progress=line "$@")
xpk workload create --cluster="$CLUSTER" --workload="$NAME" "${hardware[@]}" --docker-image="$IMAGE" \
  --max-restarts="${RESTARTS:-10}" --command="cd /app && ${command[*]@Q}"
