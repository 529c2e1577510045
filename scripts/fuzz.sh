#!/usr/bin/env bash
# Throws broken input at what reads requests, answers and remembered values.
#   fuzz.sh [SECONDS]      all targets, SECONDS in all (600), one after the other on one core; ends at the first finding
#   fuzz.sh minimise       brings the most telling of what was learnt since into the committed corpus
# Needs the nightly compiler (rustup toolchain install nightly); cargo-fuzz is installed where it is missing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
crate=$root/fuzz
# What is found on the way stays here; only what was minimised is committed.
learnt=$root/.mlserve/fuzz
# Files of each target that are committed, beside those written by hand.
kept=24
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
    # Written in the order in which each reaches most of what is left.
    cargo +nightly fuzz run "$target" "$fewest" "corpus/$target" "$learnt/$target" -- \
      -set_cover_merge=1 -use_counters=0 "${options[@]}"
    # Those with a name were written by hand and stay; the others are named by their hash.
    find "corpus/$target" -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    find "$fewest" -type f -printf '%T@ %f\n' | sort -n | sed -n "1,${kept}p" | while read -r _ name; do
      # Those that are the same as one with a name are there already.
      grep -qxF -f <(sha1sum "corpus/$target"/* | cut -d ' ' -f 1) <<<"$name" || cp "$fewest/$name" "corpus/$target/"
    done
    rm -r "$fewest"
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
