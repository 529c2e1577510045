#!/usr/bin/env bash
# Compares results and throughput of model_api on an NVIDIA GPU with those on the CPU.
#
#   gpu_check.sh --prepare FOLDER     on a machine with a compiler and network: binaries, CUDA's libraries, models → FOLDER
#   gpu_check.sh FOLDER               on the machine with the GPU; needs only bash and Python 3
#   gpu_check.sh --processor FOLDER   the CPU against itself: a test of this script without a GPU
#
# FOLDER holds model_api, load, lib/libonnxruntime.so with everything it loads, and models/. CUDA's libraries may be elsewhere
# on that machine: name their folders in LD_LIBRARY_PATH and leave them out of lib/.
# TOLERANCE (0.005; a GPU adds in another order) and SECONDS_EACH (3) may be set. Ends with 0 only if the results agree.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

port=${MODEL_PORT:-5950}
server=''

prepare() {
  mkdir -p "$1"
  (cd "$root" && cargo build --release --locked --bin model_api --bin load)
  cp "$(binaries)/model_api" "$(binaries)/load" "$1/"
  "$root/scripts/fetch_onnxruntime.sh" "${ONNXRUNTIME:-gpu}" "$1/lib"
  rm -rf "$1/models"
  cp -R "$(find_models_dir)" "$1/models"
  say "$1 is ready: copy it and scripts/ to the machine with the GPU"
}

# Starts model_api on one device and waits until every model has warmed up. With cuda it fails and does not fall back to the CPU.
start_server() {
  local device=$1 log=$work/model_api-$1.log
  HOST=127.0.0.1 PORT=$port METRICS_ADDR=127.0.0.1:$((port + 1)) MODEL_NAME=all MODELS_DIR=$folder/models DEVICE=$device \
    QUEUE_LENGTH=1024 QUEUE_BYTES=1073741824 MAX_BODY_BYTES=134217728 BODY_MEMORY_BYTES=1073741824 ORT_DYLIB_PATH=$folder/lib/libonnxruntime.so \
    LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$folder/model_api" >"$log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    if HOST=127.0.0.1 PORT=$port "$folder/model_api" health >/dev/null; then return; fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.2
  done
  warn "model_api does not become ready on $device:"
  HOST=127.0.0.1 PORT=$port "$folder/model_api" health >&2 || true
  tail -n 20 "$log" >&2
  exit 1
}

stop_server() {
  [[ -n $server ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=''
}

# measure DEVICE RESULT
measure() {
  say "== $1"
  start_server "$1"
  python3 "$root/scripts/gpu_check.py" measure "$port" "$folder" "${SECONDS_EACH:-3}" "$2"
  stop_server
}

main() {
  local second=cuda
  case ${1:-} in
    --prepare) prepare "${2:?the folder to fill}" && exit ;;
    --processor) second=cpu && shift ;;
  esac
  folder=$(cd "${1:?the folder made by --prepare}" && pwd)
  [[ -x $folder/model_api && -x $folder/load && -e $folder/lib/libonnxruntime.so ]] || stop_with 1 "$folder lacks model_api, load or lib/libonnxruntime.so: gpu_check.sh --prepare makes it"
  work=$(mktemp -d)
  trap 'stop_server; rm -rf "$work"' EXIT
  if [[ $second == cuda ]]; then nvidia-smi -L || stop_with 1 "no NVIDIA driver here: nvidia-smi -L does not answer"; fi
  measure cpu "$work/first.json"
  measure "$second" "$work/second.json"
  python3 "$root/scripts/gpu_check.py" compare "$work/first.json" "$work/second.json" "${TOLERANCE:-0.005}"
}

main "$@"
