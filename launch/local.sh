#!/usr/bin/env bash
# Trains on this machine: on its CPU, or on all of its GPUs (one process drives them all).
#
#   launch/local.sh [--dry-run] --config=configs/demo.py --workdir=runs/demo [...]
#   launch/local.sh --gpus=0,1 --config=configs/inat.py ...     only these GPUs
#
# Needs: `pip install -r requirements.txt`, for NVIDIA GPUs also `pip install "jax[cuda12]"` of the
# same version as the installed jax. All other arguments go to lift_jax.main. A run that was asked to
# stop (exit status 75) or that crashed is not started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=
arguments=()
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry=1 ;;
    --gpus=*) export CUDA_VISIBLE_DEVICES="${argument#--gpus=}" ;;
    -h | --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    *) arguments+=("$argument") ;;
  esac
done

command=("${PYTHON:-python3}" -m lift_jax.main "${arguments[@]}")
if [[ $dry ]]; then
  [[ -z ${CUDA_VISIBLE_DEVICES:-} ]] || printf 'CUDA_VISIBLE_DEVICES=%s ' "$CUDA_VISIBLE_DEVICES"
  printf '%q ' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
