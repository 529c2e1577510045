#!/usr/bin/env bash
# Reports the health of each part and each model, with the reason where one is not ready. Exit code 0 only when all are.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"

usage="usage: check_health.sh [--json]
  reports whether each part runs and is ready, and the state of each model; exit code 0 only when all are ready
  --json    the same as JSON: {\"mode\", \"ready\", \"parts\": [{\"name\", \"running\", \"ready\", \"reason\"}],
            \"models\": [{\"name\", \"version\", \"state\", \"device\", \"reason\"}]}"

all_ready=yes
parts=''
models=''

# note_part NAME RUNNING READY [REASON]: true, false, or none for a part that is not used. REASON is escaped for JSON.
note_part() {
  parts+="$1"$'\t'"$2"$'\t'"$3"$'\t'"${4:-}"$'\n'
  if [[ $2 == false || $3 == false ]]; then all_ready=no; fi
}

# check_service NAME PART: the service's own response is kept in `health`, flattened.
check_service() {
  local answer
  health=''
  if ! part_runs "$mode" "$2"; then
    note_part "$1" false false "it does not run: ./start_all.sh starts it"
    return
  fi
  if answer=$(get_health "$mode" "$2"); then
    health=$(flatten_json <<<"$answer")
    note_part "$1" true true "$(describe_service <<<"$health")"
  else
    health=$(flatten_json <<<"$answer")
    note_part "$1" true false "$(reason_of "$answer")"
  fi
}

# One line about a service that is ready.
describe_service() {
  awk -F '\t' '
    $1 == "app_type" { kind = $2 }
    $1 ~ /^degraded\./ { without = without (without ? "," : "") $2 }
    $1 ~ /^models\.[0-9]+\.state$/ { all++; if ($2 == "READY") ready++ }
    END { print kind (kind ? "; " : "") ready + 0 " of " all + 0 " models ready" (without ? "; degraded: " without : "") }'
}

# The reason in the JSON of a service that is not ready, or the error text if there is no response.
reason_of() {
  local reason
  reason=$(value_of reason <<<"$health")
  if [[ -n $reason ]]; then say "$reason"; else as_json "$1"; fi
}

# as_json TEXT: on one line, escaped for a JSON string.
as_json() { tr '\n\t' '  ' <<<"$1" | sed 's/ *$//; s/[\\"]/\\&/g'; }

# check_models WEB_API MODEL_API: their flattened responses. web_api lists the models of model_api and those of queues; without it
# only model_api's are shown. Each of model_api's is selected by MODEL_NAME: a broken one is an error even if the others are served.
# A queue without a worker is shown and is not an error of the stack.
check_models() {
  models=$(table_of_models <<<"$1")
  [[ -n $models ]] || models=$(table_of_models <<<"$2")
  if [[ -n $(table_of_models <<<"$2" | awk -F '\t' '$3 != "READY"') ]]; then all_ready=no; fi
}

check_db_api() {
  local redis why
  if [[ $mode == docker ]]; then
    if ! part_runs docker db_api; then
      note_part DB_API false false "it does not run: results are right but gone when web_api stops"
    elif why=$(docker exec "$(container_of db_api)" health 2>&1); then
      note_part DB_API true true
    else
      note_part DB_API true false "$(as_json "$why")"
    fi
    return
  fi
  redis=$(value_of memory.redis <<<"$1")
  case $redis in
    ready) note_part DB_API true true "the Redis of REDIS_URL" ;;
    unavailable) note_part DB_API false false "the Redis of REDIS_URL does not respond" ;;
    *) note_part DB_API none none "not used: without containers web_api has its own cache" ;;
  esac
}

check_workers() {
  local running wanted
  [[ $mode == docker ]] || return 0
  running=$(running_workers)
  wanted=$(stack_settings | sed -n 's/^JOB_WORKERS=//p')
  if ((${wanted:-0} == 0 && running == 0)); then return; fi
  if ((running >= ${wanted:-0})); then
    note_part Job_Worker true true "$running containers"
  else
    note_part Job_Worker false false "$running of $wanted containers run"
  fi
}

show_text() {
  local name running ready why version state device
  while IFS=$'\x1f' read -r name running ready why; do
    [[ -n $name ]] || continue
    if [[ $running == none ]]; then
      say "$name running: false ($why)"
      continue
    fi
    say "$name running: $running"
    say "$name ready: $ready${why:+ ($why)}"
  done < <(tr '\t' $'\x1f' <<<"$parts")
  while IFS=$'\x1f' read -r name version state device why; do
    [[ -n $name ]] || continue
    say "Model $name $version: $(tr '[:upper:]' '[:lower:]' <<<"$state")${device:+ on $device}${why:+ ($why)}"
  done < <(tr '\t' $'\x1f' <<<"$models")
}

# Values from JSON keep their escapes.
show_json() {
  local ready=true
  [[ $all_ready == yes ]] || ready=false
  printf '{"mode":"%s","ready":%s,"parts":[' "$mode" "$ready"
  printf '%s' "$parts" | awk -F '\t' '
    function text(value) { return value == "" ? "null" : "\"" value "\"" }
    function truth(value) { return value == "none" ? "null" : value }
    NF { printf "%s{\"name\":\"%s\",\"running\":%s,\"ready\":%s,\"reason\":%s}", sep, $1, truth($2), truth($3), text($4); sep = "," }'
  printf '],"models":['
  printf '%s\n' "$models" | awk -F '\t' '
    function text(value) { return value == "" ? "null" : "\"" value "\"" }
    NF { printf "%s{\"name\":%s,\"version\":%s,\"state\":%s,\"device\":%s,\"reason\":%s}", sep, text($1), text($2), text($3), text($4), text($5); sep = "," }'
  printf ']}\n'
}

main() {
  local json=no of_web
  if [[ ${1:-} == --json ]]; then
    json=yes
    shift
  fi
  take_no_arguments "$@"
  mode=$(find_mode)
  if [[ -z $mode ]]; then
    for part in Web_API Model_API DB_API; do note_part "$part" false false; done
  else
    check_service Web_API web_api
    of_web=$health
    check_service Model_API model_api
    check_models "$of_web" "$health"
    check_db_api "$of_web"
    check_workers
  fi
  if [[ $json == yes ]]; then
    show_json
  elif [[ -z $mode ]]; then
    for part in Web_API Model_API DB_API; do say "$part running: false"; done
    say "nothing of MLServe runs here: ./start_all.sh starts it"
  else
    show_text
  fi
  [[ $all_ready == yes ]]
}

main "$@"
