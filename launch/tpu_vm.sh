#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a pod slice of them (up to v6e; newer ones are served through GKE:
# gke_jobset.yaml).
#
#   export TPU=my-pod ZONE=europe-west4-b           (PROJECT, if not gcloud's default)
#   launch/tpu_vm.sh create --type=v5litepod-16 [--spot]
#   launch/tpu_vm.sh setup                          copies this checkout, installs, on all workers
#   launch/tpu_vm.sh start --config=configs/inat.py --workdir=/mnt/shared/runs/inat [...]
#   launch/tpu_vm.sh logs | status | stop | delete
#
# --dry-run before or after any of them prints the commands instead. Needs: gcloud, logged in, and
# a --workdir that outlives the VM, such as gs://bucket/runs/inat. `start` detaches: the run continues
# when you log out. After a maintenance event (exit status 75) or a crash it starts again from the
# newest checkpoint. `stop` lets it save first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
fail() { echo "error: $*" >&2; exit 2; }

dry=
spot=()
type=
arguments=()
action=
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry=1 ;;
    -h | --help) usage; exit ;;
    --type=*) type="${argument#--type=}" ;;
    --spot) spot=(--spot) ;;
    *) if [[ $action ]]; then arguments+=("$argument"); else action="$argument"; fi ;;
  esac
done
[[ $action ]] || { usage; exit 2; }
[[ ${TPU:-} && ${ZONE:-} ]] || fail "set TPU to the name and ZONE to the zone of the TPU VM."

run() {
  if [[ $dry ]]; then printf '%q ' "$@"; echo; else "$@"; fi
}
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
tpu() { run gcloud compute tpus tpu-vm "$@" "${where[@]}"; }
everywhere() { tpu ssh "$TPU" --worker=all "--command=$1"; }

case "$action" in
  create)
    [[ $type ]] || fail "create needs --type=, as --type=v5litepod-16."
    case "$type" in
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) version=tpu-ubuntu2204-base ;;
    esac
    tpu create "$TPU" "--accelerator-type=$type" "--version=${VERSION:-$version}" "${spot[@]}"
    ;;
  setup)
    archive="$(mktemp -d)/lift_jax.tar.gz"
    trap 'rm -rf "$(dirname "$archive")"' EXIT
    run git archive --format=tar.gz "--output=$archive" HEAD
    tpu scp "$archive" "$TPU:lift_jax.tar.gz" --worker=all
    # the jax that requirements.txt chose for this Python, with the TPU's library beside it, and
    # what reads and writes gs://
    # shellcheck disable=SC2016  # expanded there, not here
    everywhere 'mkdir -p lift_jax && tar xzf lift_jax.tar.gz -C lift_jax && cd lift_jax &&
      python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt &&
      .venv/bin/pip install --quiet "jax[tpu]==$(.venv/bin/python -c "import jax; print(jax.__version__)")" gcsfs'
    ;;
  start)
    [[ ${#arguments[@]} -gt 0 ]] || fail "start needs the arguments of lift_jax.main."
    command="$(printf '%q ' .venv/bin/python -m lift_jax.main "${arguments[@]}")"
    # 75: saved on request, go on at once; 0, 2: finished, or a mistake that needs a reader; after
    # ten crashes there is something to read as well
    loop="rm -f stopped; n=0; while [ ! -e stopped ] && [ \$n -lt 10 ]; do $command; s=\$?;
      case \$s in 0|2) break;; 75) ;; *) n=\$((n+1)); sleep 30;; esac; done
      echo \"exit status \$s\""
    everywhere "cd lift_jax && tmux new-session -d -s lift_jax $(printf '%q' "( $loop ) >> train.log 2>&1")"
    ;;
  logs) tpu ssh "$TPU" --worker=0 '--command=tail -n 100 -f lift_jax/train.log' ;;
  status) everywhere 'tmux ls 2>/dev/null; tail -n 1 lift_jax/train.log' ;;
  stop) everywhere "touch lift_jax/stopped; pkill -TERM -f '[l]ift_jax.main'" ;;
  delete) tpu delete "$TPU" ;;
  *) fail "unknown action '$action': expected create, setup, start, logs, status, stop or delete." ;;
esac
