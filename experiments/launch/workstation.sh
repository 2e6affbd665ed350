#!/usr/bin/env bash
# One machine with one or several GPUs: one process has them all, nothing is distributed.
#
#   experiments/launch/workstation.sh --workdir=runs/mine
#   DEVICES=4 PRESET=experiments/presets/ml-100k.flags experiments/launch/workstation.sh --epochs=50
#
# PRESET   flagfile of the training.
# DEVICES  GPUs to use; default: all that nvidia-smi lists, or 1.
# What is on the command line is added at the end, and so wins.
#
# PROCESSES=N starts N processes instead, each with DEVICES/N of the GPUs: slower, for trying out on one machine what
# several hosts do. Without GPUs each has DEVICES/N virtual CPU devices. Process 0's output is shown, that of the others
# is in LOGS/process-<number>.log (default: runs). The exit status is that of the first that failed; the others are
# ended then. PORT is where they meet (default 8476).
set -euo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-.venv/bin/python}
PRESET=${PRESET:-experiments/presets/ml-100k.flags}
GPUS=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)
DEVICES=${DEVICES:-$((GPUS > 0 ? GPUS : 1))}
PROCESSES=${PROCESSES:-1}

train=("$PYTHON" -m experiments.train --flagfile="$PRESET" --mesh=data:"$DEVICES")

if ((PROCESSES == 1)); then
  exec "${train[@]}" --multihost=off "$@"
fi

if ((DEVICES % PROCESSES)); then
  echo "DEVICES=$DEVICES must be a multiple of PROCESSES=$PROCESSES." >&2
  exit 2
fi
each=$((DEVICES / PROCESSES))
port=${PORT:-8476}
logs=${LOGS:-runs}
mkdir -p "$logs"
started=()
for ((index = 0; index < PROCESSES; index++)); do
  flags=(--coordinator_address="127.0.0.1:$port" --num_processes="$PROCESSES" --process_id="$index")
  log=$logs/process-$index.log
  if ((GPUS > 0)); then
    flags+=(--local_device_ids="$(seq -s, $((index * each)) $((index * each + each - 1)))")
  else
    export XLA_FLAGS="--xla_force_host_platform_device_count=$each"
  fi
  if ((index == 0)); then log=/dev/stdout; fi
  "${train[@]}" --multihost=on "${flags[@]}" "$@" > "$log" 2>&1 &
  started+=($!)
done
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

for ((index = 0; index < PROCESSES; index++)); do
  status=0
  wait -n || status=$?
  if ((status)); then exit "$status"; fi
done
