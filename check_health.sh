#!/usr/bin/env bash
# Tells of each part whether it runs and is ready, and why not. Ends with 0 only when all is ready.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

usage="usage: check_health.sh
  tells of each part whether it runs and is ready, and why not; exit code 0 only when all is ready"

all_ready=yes

# report NAME running|ready true|false [WHY]
report() {
  say "$1 $2: $3${4:+ ($4)}"
  if [[ $3 == false ]]; then all_ready=no; fi
}

check_web_api() {
  local answer health why
  if ! part_runs "$mode" web_api; then
    report Web_API running false
    report Web_API ready false "it does not run: ./start_all.sh starts it"
    return
  fi
  report Web_API running true
  if answer=$(ask_health "$mode" web_api); then
    health=$(flatten_json <<<"$answer")
    why=$(awk -F '\t' '$1 ~ /^degraded\./ { print $2 }' <<<"$health" | paste -s -d , -)
    report Web_API ready true "$(value_of app_type <<<"$health")${why:+; does without: $why}"
  else
    report Web_API ready false "$(say_why "$answer")"
  fi
}

check_model_api() {
  local answer
  if ! part_runs "$mode" model_api; then
    report Model_API running false
    report Model_API ready false "it does not run: ./start_all.sh starts it"
    return
  fi
  report Model_API running true
  if answer=$(ask_health "$mode" model_api); then
    report Model_API ready true "$(flatten_json <<<"$answer" | describe_models | paste -s -d , -)"
  else
    report Model_API ready false "$(say_why "$answer")"
  fi
}

# A service that is not ready says so in JSON; one that does not answer at all, in words.
say_why() {
  local health reasons
  health=$(flatten_json <<<"$1")
  reasons=$(value_of reason <<<"$health")
  if [[ -z $reasons ]]; then reasons=$(describe_models <<<"$health" | paste -s -d ',' -); fi
  say "${reasons:-$1}"
}

check_db_api() {
  local redis why
  if [[ $mode == docker ]]; then
    if ! part_runs docker db_api; then
      report DB_API running false
      report DB_API ready false "it does not run: answers are right but forgotten when web_api stops"
    elif why=$(docker exec "$(container_of db_api)" health 2>&1); then
      report DB_API running true
      report DB_API ready true
    else
      report DB_API running true
      report DB_API ready false "$why"
    fi
    return
  fi
  redis=$(ask_health native web_api | flatten_json | value_of memory.redis) || true
  case $redis in
    ready)
      report DB_API running true
      report DB_API ready true "the Redis of REDIS_URL"
      ;;
    unavailable)
      report DB_API running false
      report DB_API ready false "the Redis of REDIS_URL does not answer"
      ;;
    *) say "DB_API running: false (none wanted: without containers web_api remembers in its own memory)" ;;
  esac
}

main() {
  take_no_arguments "$@"
  mode=$(find_mode)
  if [[ -z $mode ]]; then
    for part in Web_API Model_API DB_API; do report "$part" running false; done
    say "nothing of MLServe runs here: ./start_all.sh starts it"
    exit 1
  fi
  check_web_api
  check_model_api
  check_db_api
  [[ $all_ready == yes ]]
}

main "$@"
