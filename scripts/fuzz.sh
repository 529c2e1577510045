#!/usr/bin/env bash
# Throws broken input at what reads requests, answers and remembered values.
#   fuzz.sh [SECONDS]      all targets, SECONDS in all (600), one after the other on one core; ends at the first finding
#   fuzz.sh minimise       brings what was learnt since into the committed corpus, as few and small files as do
# Needs the nightly compiler (rustup toolchain install nightly); cargo-fuzz is installed where it is missing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
crate=$root/crates/open_inference/fuzz
# What is found on the way stays here; only what was minimised is committed.
learnt=$root/.mlserve/fuzz
# Larger input is slower and finds no more: nothing that is read has a limit near this but the body's own.
options=(-max_len=8192 -timeout=10 -rss_limit_mb=2048)

cargo +nightly --version >/dev/null 2>&1 || {
  echo "fuzz.sh: no nightly compiler: rustup toolchain install nightly" >&2
  exit 1
}
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

cd "$crate"
mapfile -t targets < <(cargo +nightly fuzz list)

if [[ ${1:-} == minimise ]]; then
  for target in "${targets[@]}"; do
    mkdir -p "$learnt/$target"
    fewest=$(mktemp -d)
    # Each branch once is enough: how often it is taken would keep hundreds of files.
    cargo +nightly fuzz run "$target" "$fewest" "corpus/$target" "$learnt/$target" -- \
      -set_cover_merge=1 -use_counters=0 "${options[@]}"
    rm -r "corpus/$target"
    mv "$fewest" "corpus/$target"
    chmod 755 "corpus/$target"
  done
  exit
fi

seconds=$((${1:-600} / ${#targets[@]}))
for target in "${targets[@]}"; do
  echo "==== $target: $seconds s ===="
  mkdir -p "$learnt/$target" "corpus/$target"
  cargo +nightly fuzz run "$target" "$learnt/$target" "corpus/$target" -- -max_total_time=$seconds -print_final_stats=1 "${options[@]}"
done
echo "no finding in ${#targets[@]} targets, $seconds s each"
