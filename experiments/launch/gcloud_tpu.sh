#!/usr/bin/env bash
# A Cloud TPU slice of several hosts: the same line on every worker, over ssh.
#
#   TPU_NAME=mine ZONE=us-west4-a MESH=data:16 WORKDIR=/mnt/shared/runs/mine \
#     experiments/launch/gcloud_tpu.sh --epochs=50
#
# TPU_NAME, ZONE  of `gcloud compute tpus tpu-vm create`.
# PROJECT         the Google Cloud project; default: the one gcloud is set to.
# MESH            as many devices as the slice has chips: data:16 on a v5litepod-16.
# WORKDIR         a folder; worker 0 alone reads and writes it. The data set must be on every worker.
# FOLDER          where the repository is on every worker; default ~/slif_jax.
# PRESET          flagfile of the training, relative to FOLDER.
# SETUP=1         copies this repository to every worker and installs it, before the training.
# What is on the command line is added at the end, and so wins. It is safe to run again: training goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

: "${TPU_NAME:?name of the TPU}" "${ZONE:?zone of the TPU}" "${MESH:?such as data:16}" "${WORKDIR:?a folder}"
FOLDER=${FOLDER:-slif_jax}
PRESET=${PRESET:-experiments/presets/ml-100k.flags}
where=("$TPU_NAME" --zone="$ZONE" --worker=all)
if [[ -n ${PROJECT:-} ]]; then where+=(--project="$PROJECT"); fi

if [[ ${SETUP:-0} == 1 ]]; then
  archive=$(mktemp -d)/slif_jax.tar.gz
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME":slif_jax.tar.gz "${where[@]:1}"
  unpack="mkdir -p $FOLDER && tar -xzf slif_jax.tar.gz -C $FOLDER"
  install="cd $FOLDER && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
  gcloud compute tpus tpu-vm ssh "${where[@]}" --command="$unpack && $install"
fi

# JAX finds the workers by itself; one line, the same everywhere.
command=(.venv/bin/python -m experiments.train --flagfile="$PRESET" --workdir="$WORKDIR" --mesh="$MESH"
  --multihost=auto --progress=line "$@")
gcloud compute tpus tpu-vm ssh "${where[@]}" --command="cd $FOLDER && ${command[*]@Q}"
