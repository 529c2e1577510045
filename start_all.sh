#!/usr/bin/env bash
# Starts MLServe and comes back when it answers.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/images.sh
source "$root/scripts/images.sh"
# shellcheck source=scripts/native.sh
source "$root/scripts/native.sh"

usage="usage: start_all.sh APP_TYPE MODEL_NAME [--docker|--native] [--device auto|cpu|cuda] [--workers N]
  APP_TYPE    ui: a page for people; cli: JSON alone
  MODEL_NAME  a model of model_api/models, several with commas, or all
  --docker    three containers; the default where a Docker engine answers
  --native    two processes on loopback
  --device    auto (default): the graphics card if there is one that works; cuda: that or nothing
  --workers   containers that work on jobs alone, beside web_api; a stack that runs gets N instead, and nothing else changes
  PORT=8080 start_all.sh … moves the one public port from 5000
  PUBLISH=0.0.0.0 start_all.sh … lets other machines reach it; by default this machine alone does
  MODEL_WATCH=off start_all.sh … takes no notice of models that are added, changed or taken away"

read_arguments() {
  local words=()
  mode='' workers=''
  device=$(setting DEVICE auto)
  while (($#)); do
    case $1 in
      --docker | --native) mode=${1#--} ;;
      --device) device=${2:-} && shift ;;
      --device=*) device=${1#*=} ;;
      --workers) workers=${2:-} && shift ;;
      --workers=*) workers=${1#*=} ;;
      -h | --help) say "$usage" && exit 0 ;;
      -*) stop_with "$usage_error" "unknown option '$1'"$'\n'"$usage" ;;
      *) words+=("$1") ;;
    esac
    shift || stop_with "$usage_error" "--device and --workers need a value"$'\n'"$usage"
  done
  ((${#words[@]} == 2)) || stop_with "$usage_error" "an app type and a model are needed"$'\n'"$usage"$'\n'"models: $(name_models)"
  app_type=${words[0]}
  model_name=${words[1]}
  port=$(setting PORT 5000)
  publish=$(setting PUBLISH 127.0.0.1)
}

name_models() { list_models | paste -s -d ' ' -; }

# Everything that can be known to be wrong before anything is built.
check_arguments() {
  local name names
  [[ $app_type == ui || $app_type == cli ]] || stop_with "$usage_error" "unknown app type '$app_type': there are ui and cli"
  [[ $device == auto || $device == cpu || $device == cuda ]] || stop_with "$usage_error" "unknown device '$device': there are auto, cpu and cuda"
  if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then stop_with "$usage_error" "PORT '$port' is no port: 1 to 65535"; fi
  [[ $publish =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ || $publish =~ ^\[[0-9A-Fa-f:]+\]$ ]] ||
    stop_with "$usage_error" "PUBLISH '$publish' is no address: 127.0.0.1 (this machine alone), 0.0.0.0 (all), or one of this machine's"
  [[ -z $workers || $workers =~ ^[0-9]{1,3}$ ]] || stop_with "$usage_error" "--workers '$workers' is no number from 0 to 999"
  [[ -n $(list_models) ]] || stop_with "$usage_error" "there is no model in $(find_models_dir): put NAME.onnx or NAME/model.onnx there"
  IFS=, read -r -a names <<<"$model_name"
  ((${#names[@]})) || stop_with "$usage_error" "no model is named; there are: $(name_models) (or all)"
  for name in "${names[@]}"; do
    [[ $model_name == all ]] || list_models | grep -qxF -e "$name" ||
      stop_with "$usage_error" "unknown model '$name'; there are: $(name_models) (or all)"
  done
}

choose_mode() {
  if [[ $mode == native ]]; then return; fi
  if engine_answers && compose_answers; then
    mode=docker
  elif [[ $mode == docker ]]; then
    engine_answers || stop_with 1 "$no_engine, or use --native"
    stop_with 1 "$no_compose, or use --native"
  else
    mode=native
    if engine_answers; then warn "$no_compose; going on without containers"; fi
  fi
}

# A second start changes nothing: it says what runs, and fails if that is not what was asked for.
stop_if_it_runs() {
  local running
  running=$(find_mode)
  [[ -n $running ]] && part_runs "$running" web_api || return 0
  local what
  what="$(recorded APP_TYPE) $(recorded MODEL_NAME)"
  [[ $what != ' ' ]] || what='somebody else started it'
  if ! ask_health "$running" web_api >/dev/null || ! part_runs "$running" model_api; then
    stop_with 1 "it runs already ($running: $what) but is not ready: ./check_health.sh says why, ./stop_all.sh stops it"
  fi
  say "MLServe runs already ($running: $what): $(address "$running")"
  if [[ -n $workers && $running == native ]]; then stop_with "$usage_error" "$no_workers"; fi
  if [[ $what != "$app_type $model_name" || ${mode:-$running} != "$running" ]]; then
    stop_with 1 "to start $app_type $model_name${mode:+ --$mode} instead, stop it first: ./stop_all.sh"
  fi
  if [[ -n $workers ]]; then
    change_workers "$workers" || stop_with 1 "the number of workers was not changed: see above"
    say "workers: $(running_workers)"
  fi
  exit 0
}

no_workers="--workers needs containers; without them start 'web_api worker' with REDIS_URL as often as you like"

# port_in_use PORT VARIABLE
port_in_use() {
  say "port $1 is in use: end what listens there (ss -ltnp 'sport = :$1'), or choose another: $2=$(($1 + 1)) ./start_all.sh …"
}

# check_port ADDRESS PORT VARIABLE
check_port() {
  if port_is_taken "$1" "$2"; then stop_with 1 "$(port_in_use "$2" "$3")"; fi
}

# published MODE: the address and port on which the stack answers, ADDRESS:PORT.
published() {
  if [[ $1 == docker ]]; then
    docker port "$(container_of web_api)" 5000 | head -n 1
  else
    say "$(recorded PUBLISH):$(recorded PORT)"
  fi
}

# address MODE: where a client on this machine finds it.
address() {
  local at
  at=$(published "$1")
  case $at in
    127.0.0.1:* | 0.0.0.0:* | '[::]:'* | '[::1]:'* | :*) say "http://localhost:${at##*:}" ;;
    *) say "http://$at" ;;
  esac
}

# For the other scripts, and for a second start.
record_start() {
  mkdir -p "$state"
  printf '%s\n' "MODE=$mode" "APP_TYPE=$app_type" "MODEL_NAME=$model_name" "DEVICE=$device" "PORT=$port" "PUBLISH=$publish" \
    "MODEL_PORT=${model_port:-5050}" "METRICS_PORT=${metrics:-9100}" "MODEL_METRICS_PORT=${model_metrics:-9150}" >"$state/stack"
}

# Waits until both services say that they are ready, and tells every five seconds how far the models are.
wait_until_ready() {
  local patience=${START_PATIENCE_S:-180} begun=$SECONDS told=0 waited part models
  while ((waited = SECONDS - begun, waited < patience)); do
    for part in web_api model_api; do
      if ((waited >= 2)) && ! part_runs "$mode" "$part"; then show_why "$part"; fi
    done
    if ask_health "$mode" model_api >/dev/null && ask_health "$mode" web_api >/dev/null; then return; fi
    if ((waited >= told + 5)); then
      told=$waited
      models=$(ask_health "$mode" model_api | flatten_json | describe_models | paste -s -d ',' -) || true
      say "  $waited s: ${models:-waiting for model_api}"
      # Nothing loads any more, and something cannot be loaded: waiting would not help.
      if [[ $models == *' unavailable'* && $models != *' loading'* && $waited -ge 15 ]]; then break; fi
    fi
    sleep 0.3
  done
  show_why model_api
}

# Why a part is not ready: its models that are not, and the end of its log without the lines about requests.
show_why() {
  local broken
  broken=$(ask_health "$mode" "$1" | flatten_json | describe_models | grep -v ' ready' | sed 's/^/  /') || true
  warn "$1 did not start${broken:+:$'\n'$broken}"
  warn "the end of its log:"
  if [[ $mode == docker ]]; then
    docker logs --tail 500 "$(container_of "$1")" 2>&1 | without_requests >&2 || true
    stop_with 1 "more: docker logs $(container_of "$1"); ./stop_all.sh takes the stack away"
  fi
  without_requests <"$state/$1.log" >&2 || true
  "$root/stop_all.sh" >/dev/null
  stop_with 1 "stopped again; more: $state/$1.log"
}

without_requests() { grep -v ': request completed method=\|"message":"request completed"' | tail -n 15; }

# show_example HEALTH: a line that works as it stands, for a model that is ready; mnist where it is served, since a
# digit needs no explanation.
show_example() {
  local name names sample
  names=$(awk -F '\t' '$1 ~ /^models\.[0-9]+\.(name|state)$/ { if ($1 ~ /name$/) name = $2; else if ($2 == "READY") print name }' <<<"$1")
  for name in $(grep -x mnist <<<"$names") $names; do
    for sample in "$(find_models_dir)/$name"/samples/*.{png,jpg,jpeg}; do
      [[ -f $sample ]] || continue
      if [[ $PWD == "$root" ]]; then sample=${sample#"$root"/}; fi
      say "curl -F $(printf %q "image=@$sample") $(address "$mode")/predict/$name"
      return
    done
  done
  say "$(address "$mode")/docs has an example for each model"
}

tell() {
  local health memory
  health=$(ask_health "$mode" web_api | flatten_json)
  say ""
  say "MLServe answers: $(address "$mode")   ($app_type, $mode)"
  describe_models <<<"$health" | sed 's/^/  model       /'
  case $mode-$(value_of memory.redis <<<"$health") in
    docker-ready) memory="Redis (db_api) on the volume $(project)_results: survives stop_all.sh" ;;
    native-ready) memory="the Redis that REDIS_URL names, and web_api's own memory" ;;
    *-unavailable) memory="web_api's own memory alone: Redis does not answer" ;;
    *) memory="web_api's own memory: fast, but gone when it stops (REDIS_URL would name a Redis)" ;;
  esac
  say "  remembers   $memory"
  if [[ $app_type == ui ]]; then
    say "  try it      open the address in a browser"
  else
    say "  try it      $(show_example "$health")"
  fi
  case $publish in
    127.* | '[::1]') say "  reached by  this machine alone (PUBLISH=0.0.0.0 ./start_all.sh … lets others in)" ;;
    *) say "  reached by  every machine that reaches $publish:$port (PUBLISH)" ;;
  esac
  if [[ $mode == docker && $workers != 0 ]]; then say "  workers     $(running_workers) for jobs alone"; fi
  say "  watch it    ./check_health.sh        stop it: ./stop_all.sh"
}

main() {
  read_arguments "$@"
  check_arguments
  stop_if_it_runs
  choose_mode
  if [[ $mode == native && -n $workers ]]; then stop_with "$usage_error" "$no_workers"; fi
  workers=${workers:-$(setting JOB_WORKERS 0)}
  check_port "$publish" "$port" PORT
  if [[ $mode == docker ]]; then check_published; fi
  if [[ $mode == docker ]]; then start_containers; else start_processes; fi
  wait_until_ready
  tell
}

main "$@"
