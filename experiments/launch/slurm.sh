#!/usr/bin/env bash
# SLURM, nodes with several GPUs: one process per GPU, found by JAX under srun.
#
#   sbatch experiments/launch/slurm.sh --workdir=/shared/runs/mine
#   sbatch --nodes=4 --export=ALL,PRESET=experiments/presets/tiktok.flags experiments/launch/slurm.sh
#
# Run it from the top of the repository, on a file system that all nodes see. PRESET is the flagfile, MESH the mesh
# (default: all processes along `data`). What follows the file name is added to the training's flags, and so wins.
#
# --ntasks-per-node and --gpus-per-node must be the same number: under srun JAX gives each process one GPU, that of its
# local number. Do not add --gpus-per-task or --gpu-bind: a process must see all GPUs of its node. One process per node
# with all GPUs is `sbatch --ntasks-per-node=1 --export=ALL,MESH=data:16 ... --local_device_ids=0,1,2,3,4,5,6,7`.
# After a failed node SLURM starts the job again (--requeue); after any other end the same sbatch line goes on.
#SBATCH --job-name=slif_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

PYTHON=${PYTHON:-.venv/bin/python}
PRESET=${PRESET:-experiments/presets/ml-100k.flags}
MESH=${MESH:-data:$((SLURM_JOB_NUM_NODES * SLURM_NTASKS_PER_NODE))}
if [[ -n ${http_proxy:-}${https_proxy:-}${grpc_proxy:-} ]]; then  # the processes must find each other without it
  no_proxy=${no_proxy:+$no_proxy,}$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd, -)
  export no_proxy
fi

# --kill-on-bad-exit ends the others as soon as one has failed, instead of after --heartbeat_timeout.
exec srun --label --kill-on-bad-exit=1 "$PYTHON" -m experiments.train \
  --flagfile="$PRESET" --mesh="$MESH" --multihost=auto --progress=line "$@"
