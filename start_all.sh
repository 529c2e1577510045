#!/usr/bin/env bash
# Starts MLServe and returns when it is ready.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/images.sh
source "$root/scripts/images.sh"
# shellcheck source=scripts/native.sh
source "$root/scripts/native.sh"

usage="usage: start_all.sh APP_TYPE MODEL_NAME [--docker|--native] [--device auto|cpu|cuda] [--workers N]
  APP_TYPE    ui: with the web page; cli: JSON everywhere
  MODEL_NAME  a model of model_api/models, several with commas, or all
  --docker    three containers; the default if a Docker engine responds
  --native    two processes on loopback
  --device    auto (default): the GPU if it works, else the CPU; cuda: the GPU, or an error
  --workers   N extra containers for jobs; on a running stack only their number changes
  PORT=8080 start_all.sh … changes the public port from 5000
  PUBLISH=0.0.0.0 start_all.sh … publishes the port on the network; by default only this machine reaches it
  MODEL_WATCH=off start_all.sh … ignores models that are added, changed or removed"

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

# Checks the arguments before anything is built.
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
  if engine_responds && compose_responds; then
    mode=docker
  elif [[ $mode == docker ]]; then
    engine_responds || stop_with 1 "$no_engine, or use --native"
    stop_with 1 "$no_compose, or use --native"
  else
    mode=native
    if engine_responds; then warn "$no_compose; continuing without containers"; fi
  fi
}

# A second start changes nothing: it reports what runs, and fails if other arguments are given.
stop_if_it_runs() {
  local running
  running=$(find_mode)
  [[ -n $running ]] && part_runs "$running" web_api || return 0
  local what
  what="$(recorded APP_TYPE) $(recorded MODEL_NAME)"
  [[ $what != ' ' ]] || what='not started by this script'
  if ! get_health "$running" web_api >/dev/null || ! part_runs "$running" model_api; then
    stop_with 1 "it runs already ($running: $what) but is not ready: ./check_health.sh shows the reason, ./stop_all.sh stops it"
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

# published MODE: the address and port of the stack, ADDRESS:PORT.
published() {
  if [[ $1 == docker ]]; then
    docker port "$(container_of web_api)" 5000 | head -n 1
  else
    say "$(recorded PUBLISH):$(recorded PORT)"
  fi
}

# address MODE: its URL for a client on this machine.
address() {
  local at
  at=$(published "$1")
  case $at in
    127.0.0.1:* | 0.0.0.0:* | '[::]:'* | '[::1]:'* | :*) say "http://localhost:${at##*:}" ;;
    *) say "http://$at" ;;
  esac
}

# Records the start for the other scripts and for a second start.
record_start() {
  mkdir -p "$state"
  printf '%s\n' "MODE=$mode" "APP_TYPE=$app_type" "MODEL_NAME=$model_name" "DEVICE=$device" "PORT=$port" "PUBLISH=$publish" \
    "MODEL_PORT=${model_port:-5050}" "METRICS_PORT=${metrics:-9100}" "MODEL_METRICS_PORT=${model_metrics:-9150}" >"$state/stack"
}

# Waits until both services are ready, and reports the state of the models every five seconds.
wait_until_ready() {
  local timeout=${START_PATIENCE_S:-180} begun=$SECONDS reported=0 waited part models
  while ((waited = SECONDS - begun, waited < timeout)); do
    for part in web_api model_api; do
      if ((waited >= 2)) && ! part_runs "$mode" "$part"; then show_reason "$part"; fi
    done
    if get_health "$mode" model_api >/dev/null && get_health "$mode" web_api >/dev/null; then return; fi
    if ((waited >= reported + 5)); then
      reported=$waited
      models=$(get_health "$mode" model_api | flatten_json | describe_models | paste -s -d ',' -) || true
      say "  $waited s: ${models:-waiting for model_api}"
      # No model is still loading, and one cannot be loaded: waiting would not help.
      if [[ $models == *' unavailable'* && $models != *' loading'* && $waited -ge 15 ]]; then break; fi
    fi
    sleep 0.3
  done
  show_reason model_api
}

# Why a part is not ready: its models that are not, and the end of its log without access-log lines.
show_reason() {
  local broken
  broken=$(get_health "$mode" "$1" | flatten_json | describe_models | grep -v ' ready' | sed 's/^/  /') || true
  warn "$1 did not start${broken:+:$'\n'$broken}"
  warn "the end of its log:"
  if [[ $mode == docker ]]; then
    docker logs --tail 500 "$(container_of "$1")" 2>&1 | without_requests >&2 || true
    stop_with 1 "more: docker logs $(container_of "$1"); ./stop_all.sh removes the stack"
  fi
  without_requests <"$state/$1.log" >&2 || true
  "$root/stop_all.sh" >/dev/null
  stop_with 1 "stopped again; more: $state/$1.log"
}

without_requests() { grep -v ': request completed method=\|"message":"request completed"' | tail -n 15; }

# show_example HEALTH: a command that works as printed, for a model that is ready; mnist if it is served.
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

show_summary() {
  local health cache
  health=$(get_health "$mode" web_api | flatten_json)
  say ""
  say "MLServe answers: $(address "$mode")   ($app_type, $mode)"
  describe_models <<<"$health" | sed 's/^/  model       /'
  case $mode-$(value_of memory.redis <<<"$health") in
    docker-ready) cache="Redis (db_api) on the volume $(project)_results: survives stop_all.sh" ;;
    native-ready) cache="the Redis of REDIS_URL, and in web_api" ;;
    *-unavailable) cache="only in web_api: Redis does not respond" ;;
    *) cache="only in web_api: lost when it stops (set REDIS_URL to use a Redis)" ;;
  esac
  say "  cache       $cache"
  if [[ $app_type == ui ]]; then
    say "  try it      open the address in a browser"
  else
    say "  try it      $(show_example "$health")"
  fi
  case $publish in
    127.* | '[::1]') say "  reached by  this machine only (PUBLISH=0.0.0.0 ./start_all.sh … publishes the port on the network)" ;;
    *) say "  reached by  every machine that reaches $publish:$port (PUBLISH)" ;;
  esac
  if [[ $mode == docker && $workers != 0 ]]; then say "  workers     $(running_workers), for jobs only"; fi
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
  show_summary
}

main "$@"
