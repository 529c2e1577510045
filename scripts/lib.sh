# shellcheck shell=bash
# What the scripts in the repository's root share. Sourced, not run; works from any directory and with bash 3.2.
# shellcheck disable=SC2034  # variables that only those scripts read

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=$root/.mlserve
usage_error=64

say() { printf '%s\n' "$*"; }

warn() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# stop_with CODE TEXT…: one line that says what is wrong and what helps.
stop_with() {
  warn "${*:2}"
  exit "$1"
}

# take_no_arguments ARGUMENT…: but --help, for a script that has a usage.
take_no_arguments() {
  (($#)) || return 0
  # shellcheck disable=SC2154  # the script's own
  case $1 in
    -h | --help) say "$usage" && exit 0 ;;
    *) stop_with "$usage_error" "unknown argument '$1'"$'\n'"$usage" ;;
  esac
}

have() { command -v "$1" >/dev/null 2>&1; }

# at_least A B: whether version A is at least B.
at_least() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }

# need_disk FOLDER MEGABYTES WHAT REMEDY: stops where the folder's disk has less. One that is not of this machine (Docker
# Desktop's) is not looked at.
need_disk() {
  local free
  free=$(df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 }') || free=''
  [[ -z $free ]] || ((free >= $2)) ||
    stop_with 1 "$3 needs about $2 MB of disk, and $1 has $free MB free: $4"
}

# 192 random bits.
random_hex() { od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# need_memory MEGABYTES: warns where that is too little for the shipped models.
need_memory() {
  (($1 == 0 || $1 >= 1900)) || warn "$1 MB of memory: MLServe needs about 2 GB, more for large models"
}

# shellcheck source=scripts/settings.sh
source "$root/scripts/settings.sh"

# ---- Models ---------------------------------------------------------------------------------------------------------

find_models_dir() {
  local folder
  folder=$(setting MODELS_DIR "$root/model_api/models")
  case $folder in /*) say "$folder" ;; *) say "$root/$folder" ;; esac
}

# The names of all models there are, one a line: NAME.onnx, NAME/model.onnx, NAME/VERSION/model.onnx, and pipelines, which have
# no graph but settings that say so.
list_models() {
  local folder file
  folder=$(find_models_dir)
  # As model_api knows them: extensions in any case.
  for file in "$folder"/*.{[oO][nN][nN][xX],[oO][rR][tT]} "$folder"/{*,*/*}/model{.[oO][nN][nN][xX],.[oO][rR][tT],-settings.json}; do
    [[ -f $file ]] || continue
    [[ $file != *.json ]] || grep -qE '"implementation"[[:space:]]*:[[:space:]]*"pipeline"' "$file" || continue
    file=${file#"$folder"/}
    if [[ $file == */* ]]; then say "${file%%/*}"; else say "${file%.*}"; fi
  done | sort -u
}

# ---- JSON -----------------------------------------------------------------------------------------------------------

# JSON on standard input → a line "models.0.device.name<TAB>cpu" for each value. There may be neither jq nor Python here.
flatten_json() {
  grep -oE '"([^"\\]|\\.)*"|[][{}:,]|[^][{}:,"[:space:]]+' | awk '
    function path(   i, text) { for (i = 1; i <= depth; i++) text = text (i > 1 ? "." : "") key[i]; return text }
    /^[[{]$/ { depth++; list[depth] = ($0 == "["); key[depth] = list[depth] ? 0 : ""; naming = !list[depth]; next }
    /^[]}]$/ { depth--; next }
    /^,$/    { if (list[depth]) key[depth]++; else naming = 1; next }
    /^:$/    { naming = 0; next }
             { gsub(/^"|"$/, ""); if (naming) key[depth] = $0; else print path() "\t" $0 }'
}

# value_of PATH, from flattened JSON on standard input; nothing for null.
value_of() { awk -F '\t' -v path="$1" '$1 == path && $2 != "null" { print $2 }'; }

# The models in the flattened health of either service: NAME VERSION STATE DEVICE REASON, one a line, with tabs.
table_of_models() {
  awk -F '\t' '
    $1 ~ /^models\.[0-9]+\./ {
      split($1, part, "."); i = part[2]; field = substr($1, length("models." i ".") + 1)
      if ($2 != "null") value[i, field] = $2
      if (i + 1 > count) count = i + 1
    }
    END {
      for (i = 0; i < count; i++)
        print value[i, "name"] "\t" value[i, "version"] "\t" value[i, "state"] "\t" value[i, "device.name"] "\t" \
          value[i, "reason"] (value[i, "device.stepped_down"] ? "stepped down: " value[i, "device.stepped_down"] : "")
    }'
}

# The same for people: "mnist 1 ready on cpu".
describe_models() {
  table_of_models | awk -F '\t' '{
    print $1 " " $2 " " tolower($3) ($4 == "" ? "" : " on " $4) ($5 == "" ? "" : ": " $5)
  }'
}

# ---- Docker ---------------------------------------------------------------------------------------------------------

engine_answers() { have docker && docker info >/dev/null 2>&1; }

no_engine="no Docker engine answers: start it (systemctl start docker), or join the group that may use it (usermod -aG docker)"

no_compose="Docker has no Compose v2: install the package docker-compose-plugin (Debian 13: docker-compose)"

compose_answers() { docker compose version >/dev/null 2>&1; }

project() { setting COMPOSE_PROJECT_NAME mlserve; }

# Another project name (tests) means another private network too: on a shared one the names db_api and model_api would
# lead to either stack.
stack_network() {
  local network=stack_api
  [[ $(project) == mlserve ]] || network=$(project)_stack_api
  setting STACK_NETWORK "$network"
}

# describe_network NAME: "PROJECT DRIVER INTERNAL", with the Compose project that made it or "-"; fails when there is none.
describe_network() {
  docker network inspect --format '{{or (index .Labels "com.docker.compose.project") "-"}} {{.Driver}} {{.Internal}}' "$1" 2>/dev/null
}

# Whether the private network is there and another than this project made it: Compose must not try to make it.
network_is_foreign() {
  local owner
  owner=$(describe_network "$(stack_network)") && [[ ${owner%% *} != "$(project)" ]]
}

# The files that describe the stack, NAME:NAME, as COMPOSE_FILE has them.
compose_files() {
  local files=docker-compose.yml
  [[ ${with_gpu:-no} == no ]] || files+=:docker-compose.gpu.yml
  if network_is_foreign; then files+=:docker-compose.network.yml; fi
  say "$files"
}

# Compose on our files.
compose() {
  # Building and stopping need no password, but Compose wants to see one.
  (
    cd "$root" || exit
    COMPOSE_FILE=$(compose_files) REDIS_PASSWORD=$(setting REDIS_PASSWORD none) STACK_NETWORK=$(stack_network) \
      MODELS_DIR=$(find_models_dir) docker compose --project-name "$(project)" "$@"
  )
}

# running_workers: how many containers work on jobs alone.
running_workers() {
  docker ps --quiet --filter "label=com.docker.compose.project=$(project)" \
    --filter "label=com.docker.compose.service=job_worker" 2>/dev/null | wc -l | tr -d ' '
}

# container_of PART: the id of the part's container, running or not; nothing when there is none.
container_of() {
  docker ps --all --quiet --filter "label=com.docker.compose.project=$(project)" \
    --filter "label=com.docker.compose.service=$1" 2>/dev/null | head -n 1
}

container_runs() {
  local id
  id=$(container_of "$1")
  [[ -n $id && $(docker inspect --format '{{.State.Running}} {{.State.Restarting}}' "$id") == "true false" ]]
}

# ---- Plain processes ------------------------------------------------------------------------------------------------

binaries() { say "${CARGO_TARGET_DIR:-$root/target}/release"; }

# process_of PART: the process id if that process runs and is ours; a number alone may have gone to another by now. The
# link to the program is gone as soon as the process has ended, even if nobody has waited for it yet.
process_of() {
  local id
  id=$(cat "$state/$1.pid" 2>/dev/null) || return 0
  case $(readlink "/proc/$id/exe" 2>/dev/null) in */"$1" | */"$1 (deleted)") say "$id" ;; esac
}

process_runs() { [[ -n $(process_of "$1") ]]; }

# ---- Whatever runs it -----------------------------------------------------------------------------------------------

# docker, native, or nothing at all.
find_mode() {
  if process_runs web_api || process_runs model_api; then
    say native
  elif engine_answers && [[ -n $(container_of web_api)$(container_of model_api)$(container_of db_api) ]]; then
    say docker
  fi
}

# recorded NAME: with what start_all.sh started the stack: APP_TYPE, MODEL_NAME, DEVICE, PORT, PUBLISH, MODEL_PORT.
recorded() { sed -n "s/^$1=//p" "$state/stack" 2>/dev/null || true; }

part_runs() {
  case $1 in
    docker) container_runs "$2" ;;
    *) process_runs "$2" ;;
  esac
}

# ask_health MODE PART: the part's own answer to /health/ready, JSON; fails unless it is ready.
ask_health() {
  case $1 in
    docker) docker exec "$(container_of "$2")" "$2" health 2>&1 ;;
    *)
      local port
      port=$(recorded METRICS_PORT)
      if [[ $2 == model_api ]]; then port=$(recorded MODEL_METRICS_PORT); fi
      METRICS_ADDR=127.0.0.1:$port "$(binaries)/$2" health 2>&1
      ;;
  esac
}

# hex_address ADDRESS: as /proc/net/tcp has it; nothing for one that stands for all, and for IPv6.
hex_address() {
  local a b c d
  IFS=. read -r a b c d <<<"$1"
  if [[ $1 != 0.0.0.0 && -n $d ]]; then printf '%02X%02X%02X%02X' "$d" "$c" "$b" "$a"; fi
}

# port_is_taken ADDRESS PORT: whether something listens there, by the kernel's list; where there is none, by trying.
port_is_taken() {
  if [[ ! -r /proc/net/tcp ]]; then
    (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null
    return
  fi
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk -v port="$(printf %04X "$2")" -v address="$(hex_address "$1")" '
      $4 == "0A" {
        split($2, at, ":")
        # An address of IPv4 may stand at the end of one of IPv6; zeros are all addresses.
        same = address == "" || at[1] ~ /^0+$/ || substr(at[1], length(at[1]) - 7) == address
        if (at[2] == port && same) taken = 1
      }
      END { exit !taken }'
}
