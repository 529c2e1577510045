#!/usr/bin/env bash
# Flame graph of a service at full load, as SVG. Needs perf (Debian: linux-perf), and possibly root.
#   bench/flame.sh web_api docs/flame-miss-web_api.svg --format binary --cache miss --connections 64
#   bench/flame.sh model_api …     the load still goes to web_api; further arguments are those of the load generator
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
# shellcheck source=scripts/setup_tests.sh
source "$root/scripts/setup_tests.sh"

if (($# < 3)) || [[ $1 != web_api && $1 != model_api ]]; then
  stop_with "$usage_error" "usage: bench/flame.sh web_api|model_api FILE.svg LOAD…"
fi
service=$1 svg=$2
shift 2
cd "$root"
setup_onnxruntime
need perf linux-perf
inferno=$state/inferno/bin
[[ -x $inferno/inferno-flamegraph ]] ||
  cargo install inferno --version 0.12.4 --locked --root "$state/inferno" --no-default-features --features cli

# Built with frame pointers and names, which the shipped programs lack, in a separate folder.
export CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/flame
CARGO_PROFILE_RELEASE_STRIP=false CARGO_PROFILE_RELEASE_DEBUG=line-tables-only RUSTFLAGS="-C force-frame-pointers=yes" \
  cargo build --release --locked --bin web_api --bin model_api --bin load
binaries=$CARGO_TARGET_DIR/release
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT

export HOST=127.0.0.1 DEVICE=cpu MODEL_NAME=mnist MODELS_DIR=$root/model_api/models APP_TYPE=cli
PORT=21050 METRICS_ADDR=127.0.0.1:21150 "$binaries/model_api" 2>"$folder/model_api.log" &
pid=$!
PORT=21000 METRICS_ADDR=127.0.0.1:21100 MODEL_API_URL=http://127.0.0.1:21050 "$binaries/web_api" 2>"$folder/web_api.log" &
[[ $service == model_api ]] || pid=$!
until curl -sf --max-time 1 127.0.0.1:21000/health/ready >"$folder/ready"; do sleep 0.1; done
"$binaries/load" 127.0.0.1:21000 "$@" --seconds 12 >"$folder/load" &
load=$!
sleep 1
perf record --freq 999 -g --output "$folder/perf" --pid "$pid" -- sleep 10 >"$folder/perf.log" 2>&1
wait "$load"
perf script --input "$folder/perf" 2>/dev/null | "$inferno/inferno-collapse-perf" >"$folder/stacks"
"$inferno/inferno-flamegraph" --title "$service: $*" --minwidth 0.3 <"$folder/stacks" >"$svg"
say "written: $svg"
