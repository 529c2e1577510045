#!/usr/bin/env bash
# Stops MLServe in the order in which no request is lost: web_api, model_api, db_api. Cached results stay on their volume.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/native.sh
source "$root/scripts/native.sh"

usage="usage: stop_all.sh
  stops MLServe, however it was started; what is cached stays on its volume"

stop_containers() {
  local part
  for part in web_api job_worker model_api db_api; do
    [[ -z $(container_of "$part") ]] || compose stop "$part"
  done
  compose down --remove-orphans
  say "stopped; cached results stay on the volume $(project)_results"
}

stop_processes() {
  stop_process web_api
  stop_process model_api
  say "stopped"
}

main() {
  take_no_arguments "$@"
  local stopped=no
  if process_runs web_api || process_runs model_api; then
    stop_processes
    stopped=yes
  fi
  if [[ $(find_mode) == docker ]]; then
    compose_responds || stop_with 1 "$no_compose"
    stop_containers
    stopped=yes
  fi
  rm -f "$state/stack"
  if [[ $stopped == no ]]; then say "nothing of MLServe runs here"; fi
}

main "$@"
