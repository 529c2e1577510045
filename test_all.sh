#!/usr/bin/env bash
# Tests everything: style, documents, unit tests, real Redis and ONNX Runtime, the two binaries, third-party clients and exporters,
# the page in a browser, the containers.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/setup_tests.sh
source "$root/scripts/setup_tests.sh"

# The steps in their order, each with its needs: step NAME is run_NAME below, need WORD is setup_WORD in scripts/setup_tests.sh.
steps="
shell:       shellcheck
text:        checkers
format:      rust
lints:       rust
units:       rust onnxruntime redis
release:     rust
native:      rust onnxruntime redis clients
clients:     rust onnxruntime clients perf_analyzer
pytorch:     rust onnxruntime torch
page:        rust onnxruntime chromium clients
containers:  docker clients
"

usage="usage: test_all.sh [STEP…]
  tests everything, or the named steps: $(sed -n 's/^\([a-z]*\):.*/\1/p' <<<"$steps" | paste -s -d ' ' -)
  missing programs are installed (as root on Debian or Ubuntu), or named and their steps skipped
  REQUIRE_ALL=1 test_all.sh …  a skipped step is a failure
  WITH_TORCH=1 test_all.sh …   PyTorch is installed too, which takes 5 GB"

# Handles options; all other arguments must be names of steps.
check_arguments() {
  local name
  for name in "$@"; do
    case $name in
      -h | --help) say "$usage" && exit 0 ;;
      *) grep -q "^$name:" <<<"$steps" || stop_with "$usage_error" "unknown step '$name'"$'\n'"$usage" ;;
    esac
  done
}

setup_shellcheck() { need shellcheck shellcheck; }

run_shell() { shellcheck --external-sources ./*.sh scripts/*.sh bench/*.sh db_api/*.sh .ci/run; }

# Spelling, Dockerfiles, and the checks of documents and modules in checks/. All of them run, so that one run shows all faults.
run_text() {
  local check bin=$state/checkers/bin failed=0
  "$bin/typos" --config checks/typos.toml --format brief || failed=1
  git ls-files -z -- . ':!*/corpus/*' ':!*.svg' ':!e2e/interface/*' ':!*.bin' ':!*.onnx' |
    xargs -0 "$bin/codespell" --ignore-words checks/codespell.txt || failed=1
  # DL3008: versions of Debian packages are not pinned, because old ones leave the mirrors.
  "$bin/hadolint" --ignore DL3008 ./*/Dockerfile ./*/Dockerfile.models || failed=1
  for check in words sentences links configuration cycles; do
    PYTHONDONTWRITEBYTECODE=1 python3 "checks/$check.py" || failed=1
  done
  ((failed == 0))
}

run_format() { cargo fmt --all --check; }

run_lints() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

run_units() { cargo test --workspace --locked; }

run_release() { cargo build --release --locked --bin web_api --bin model_api; }

run_native() { run_pytest e2e --ignore e2e/clients --ignore e2e/page --ignore e2e/docker_stack --ignore e2e/hostile/test_limits.py; }

run_clients() { run_pytest e2e/clients -m "not pytorch"; }

run_pytorch() { run_pytest e2e/clients -m pytorch; }

run_page() { run_pytest e2e/page; }

run_containers() { run_pytest e2e/docker_stack e2e/hostile/test_limits.py; }

run_pytest() {
  MLSERVE_BIN=$(binaries) "$state/venv/bin/python" -m pytest -ra --durations=5 "$@"
}

# Sets up each need once; the outcome is kept in met_NEED.
meet() {
  local known=met_${1//-/_}
  if [[ -z ${!known:-} ]]; then
    printf -v "$known" yes
    "setup_$1" || printf -v "$known" no
  fi
  [[ ${!known} == yes ]]
}

passed=0 failed=0 skipped=0 summary=()

# note OUTCOME NAME SECONDS [REASON]
note() {
  summary+=("$(printf '%-8s %-11s %4d s  %s' "$1" "$2" "$3" "${4:-}")")
  case $1 in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) ;;
    skipped) skipped=$((skipped + 1)) ;;
  esac
}

# run_step NAME NEED…
run_step() {
  local name=$1 begun=$SECONDS need missing=''
  shift
  printf '\n==== %s ====\n' "$name"
  for need in "$@"; do meet "$need" || missing+=" $need"; done
  if [[ -n $missing ]]; then
    if [[ -n ${REQUIRE_ALL:-} ]]; then
      note failed "$name" $((SECONDS - begun)) "missing:$missing"
    else
      note skipped "$name" $((SECONDS - begun)) "NOT TESTED, missing:$missing"
    fi
  elif "run_$name"; then
    note passed "$name" $((SECONDS - begun))
  else
    note failed "$name" $((SECONDS - begun))
  fi
}

main() {
  check_arguments "$@"
  cd "$root"
  export CARGO_INCREMENTAL=0
  mkdir -p "$state"
  local name needs list
  while IFS=: read -r name needs; do
    [[ -n $name ]] || continue
    if (($#)) && ! printf '%s\n' "$@" | grep -qxF -e "$name"; then continue; fi
    IFS=' ' read -r -a list <<<"$needs"
    run_step "$name" "${list[@]}" </dev/null
  done <<<"$steps"
  printf '\n'
  printf '%s\n' "${summary[@]}"
  printf '%d passed, %d failed%s\n' "$passed" "$failed" "$( ((skipped == 0)) || printf ', %d skipped' "$skipped")"
  ((failed == 0 && passed > 0))
}

main "$@"
