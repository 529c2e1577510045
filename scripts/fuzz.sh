#!/usr/bin/env bash
# Fuzzes the parsers of requests, responses and cached values.
#   fuzz.sh [SECONDS]      all targets, SECONDS in all (600), one after the other on one core; ends at the first finding
#   fuzz.sh minimise       adds the inputs with the most coverage to the committed corpus
# Needs the nightly compiler (rustup toolchain install nightly); cargo-fuzz is installed if it is missing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
crate=$root/fuzz
# New inputs are kept here; only minimised ones are committed.
found=$root/.mlserve/fuzz
# Number of committed files of each target, besides those written by hand.
kept=24
# Larger inputs are slower and find no more: no parser has a limit of this order except that of the body.
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
    mkdir -p "$found/$target"
    minimised=$(mktemp -d)
    # Written in the order of the additional coverage of each.
    cargo +nightly fuzz run "$target" "$minimised" "corpus/$target" "$found/$target" -- \
      -set_cover_merge=1 -use_counters=0 "${options[@]}"
    # Files with a name were written by hand and stay; the others are named by their hash.
    find "corpus/$target" -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    find "$minimised" -type f -printf '%T@ %f\n' | sort -n | sed -n "1,${kept}p" | while read -r _ name; do
      # Skips files that equal one with a name.
      grep -qxF -f <(sha1sum "corpus/$target"/* | cut -d ' ' -f 1) <<<"$name" || cp "$minimised/$name" "corpus/$target/"
    done
    rm -r "$minimised"
  done
  exit
fi

seconds=$((${1:-600} / ${#targets[@]}))
for target in "${targets[@]}"; do
  echo "==== $target: $seconds s ===="
  mkdir -p "$found/$target" "corpus/$target"
  cargo +nightly fuzz run "$target" "$found/$target" "corpus/$target" -- -max_total_time=$seconds -print_final_stats=1 "${options[@]}"
done
echo "no finding in ${#targets[@]} targets, $seconds s each"
