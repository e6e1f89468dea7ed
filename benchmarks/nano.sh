#!/usr/bin/env bash
# Train the bundled network in parts of a given time, on CPUs or on a GPU.
#
#   benchmarks/nano.sh pack DATA PACKS                 once: DATA/train and DATA/val into two files of 40 MB at most
#   benchmarks/nano.sh sit PACKS RUN SECONDS [OPTION]  train for so many seconds, or go on; again until it has finished
#   benchmarks/nano.sh soup RUN [RUN...]               the mean of several runs' best weights, as soup.safetensors
#
# OPTIONs are those of `birefnet train`, the same in every sitting, for example on one large GPU
#
#   benchmarks/nano.sh sit packs runs/nano 480 --workers 14 --set data.batch=64 --set optimizer.rate=2e-3 \
#       --set samples=3000000 --set 'data.sizes="128:0.4,192:0.3,256:0.2,352:0.1"' --set seed=2
set -euo pipefail

: "${PYTHON:=python3}"

case "${1:-}" in
pack)
  mkdir -p "$3"
  for part in train val; do
    "$PYTHON" -m birefnet data pack "$2/$part" "$3/$part.npz" --size 320
  done
  ;;
sit)
  packs=$2 run=$3 seconds=$4
  shift 4
  "$PYTHON" -m birefnet train --recipe nano --data "$packs/train.npz" --val "$packs/val.npz" -o "$run" \
    --max-seconds "$seconds" --log-every 200 --no-tensorboard "$@"
  ;;
soup)
  shift
  "$PYTHON" - "$@" <<'PY'
import sys
from pathlib import Path

from birefnet import load_model, save_model

models = [load_model(Path(run) / "best.safetensors") for run in sys.argv[1:]]
states = [model.state_dict() for model in models]
first = states[0]
mean = {
    name: sum(state[name] for state in states) / len(states) if tensor.is_floating_point() else tensor
    for name, tensor in first.items()
}
models[0].load_state_dict(mean)
save_model(models[0], "soup.safetensors")
PY
  ;;
*)
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
