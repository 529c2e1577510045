#!/usr/bin/env bash
# Measures everything side by side and writes docs/BENCHMARKS.md.
#   bench/run.sh                   all sections but soak, half an hour on two cores
#   bench/run.sh --quick           some sections, one short round each, in three minutes
#   bench/run.sh hits misses …     only these; the others stay as they are in bench/results.json
#   bench/run.sh --soak 600 soak   memory at full load for ten minutes
#   bench/run.sh report            only writes the report
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
# shellcheck source=scripts/setup_tests.sh
source "$root/scripts/setup_tests.sh"

cd "$root"
export CARGO_INCREMENTAL=0
mkdir -p "$state"
cargo build --release --locked --bin web_api --bin model_api --bin load --bin limits
setup_onnxruntime
setup_redis || warn "redis-server is missing: sections with Redis are not measured"
exec env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$root/bench" python3 -m suite "$@"
