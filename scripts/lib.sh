# shellcheck shell=bash
# Functions of the scripts in the repository's root. Sourced, not run; works from any directory and with bash 3.2.
# shellcheck disable=SC2034  # variables that only those scripts read

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=$root/.mlserve
usage_error=64

say() { printf '%s\n' "$*"; }

warn() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# stop_with CODE TEXT…: prints the error and the remedy on one line, and exits.
stop_with() {
  warn "${*:2}"
  exit "$1"
}

# take_no_arguments ARGUMENT…: rejects all arguments but --help. The script sets usage.
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

# need_disk FOLDER MEGABYTES WHAT REMEDY: stops if the folder's disk has less free space. A disk of another machine (Docker
# Desktop's) is not checked.
need_disk() {
  local free
  free=$(df -Pm "$1" 2>/dev/null | awk 'NR == 2 { print $4 }') || free=''
  [[ -z $free ]] || ((free >= $2)) ||
    stop_with 1 "$3 needs about $2 MB of disk, and $1 has $free MB free: $4"
}

# 192 random bits.
random_hex() { od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# need_memory MEGABYTES: warns if that is too little for the shipped models.
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

# The names of all models, one a line: NAME.onnx, NAME/model.onnx, NAME/VERSION/model.onnx, and pipelines, which have
# settings and no graph.
list_models() {
  local folder file
  folder=$(find_models_dir)
  # Extensions in any case, as in model_api.
  for file in "$folder"/*.{[oO][nN][nN][xX],[oO][rR][tT]} "$folder"/{*,*/*}/model{.[oO][nN][nN][xX],.[oO][rR][tT],-settings.json}; do
    [[ -f $file ]] || continue
    [[ $file != *.json ]] || grep -qE '"implementation"[[:space:]]*:[[:space:]]*"pipeline"' "$file" || continue
    file=${file#"$folder"/}
    if [[ $file == */* ]]; then say "${file%%/*}"; else say "${file%.*}"; fi
  done | sort -u
}

# ---- JSON -----------------------------------------------------------------------------------------------------------

# JSON on standard input → a line "models.0.device.name<TAB>cpu" for each value. Needs neither jq nor Python.
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

# The same in readable form: "mnist 1 ready on cpu".
describe_models() {
  table_of_models | awk -F '\t' '{
    print $1 " " $2 " " tolower($3) ($4 == "" ? "" : " on " $4) ($5 == "" ? "" : ": " $5)
  }'
}

# ---- Docker ---------------------------------------------------------------------------------------------------------

engine_responds() { have docker && docker info >/dev/null 2>&1; }

no_engine="no Docker engine responds: start it (systemctl start docker), or join the group that may use it (usermod -aG docker)"

no_compose="Docker has no Compose v2: install the package docker-compose-plugin (Debian 13: docker-compose)"

compose_responds() { docker compose version >/dev/null 2>&1; }

project() { setting COMPOSE_PROJECT_NAME mlserve; }

# Another project name (tests) has another private network: on a shared one the names db_api and model_api would be
# ambiguous.
stack_network() {
  local network=stack_api
  [[ $(project) == mlserve ]] || network=$(project)_stack_api
  setting STACK_NETWORK "$network"
}

# describe_network NAME: "PROJECT DRIVER INTERNAL", with the Compose project that created it or "-"; fails if there is no such network.
describe_network() {
  docker network inspect --format '{{or (index .Labels "com.docker.compose.project") "-"}} {{.Driver}} {{.Internal}}' "$1" 2>/dev/null
}

# Whether the private network exists and was not created by this project: Compose must not create it.
network_is_foreign() {
  local owner
  owner=$(describe_network "$(stack_network)") && [[ ${owner%% *} != "$(project)" ]]
}

# The Compose files of the stack, NAME:NAME, in the format of COMPOSE_FILE.
compose_files() {
  local files=docker-compose.yml
  [[ ${with_gpu:-no} == no ]] || files+=:docker-compose.gpu.yml
  if network_is_foreign; then files+=:docker-compose.network.yml; fi
  say "$files"
}

# Docker Compose with the files and settings of the stack.
compose() {
  # Building and stopping need no password, but Compose requires a value.
  (
    cd "$root" || exit
    COMPOSE_FILE=$(compose_files) REDIS_PASSWORD=$(setting REDIS_PASSWORD none) STACK_NETWORK=$(stack_network) \
      MODELS_DIR=$(find_models_dir) docker compose --project-name "$(project)" "$@"
  )
}

# running_workers: number of running job_worker containers.
running_workers() {
  docker ps --quiet --filter "label=com.docker.compose.project=$(project)" \
    --filter "label=com.docker.compose.service=job_worker" 2>/dev/null | wc -l | tr -d ' '
}

# container_of PART: ID of the part's container, running or not; empty if there is none.
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

# process_of PART: the process ID if that process runs and is the part's program: the kernel may have reused the number. The
# link to the program is removed as soon as the process ends, even before its parent has waited for it.
process_of() {
  local id
  id=$(cat "$state/$1.pid" 2>/dev/null) || return 0
  case $(readlink "/proc/$id/exe" 2>/dev/null) in */"$1" | */"$1 (deleted)") say "$id" ;; esac
}

process_runs() { [[ -n $(process_of "$1") ]]; }

# ---- Both modes -----------------------------------------------------------------------------------------------

# docker, native, or empty.
find_mode() {
  if process_runs web_api || process_runs model_api; then
    say native
  elif engine_responds && [[ -n $(container_of web_api)$(container_of model_api)$(container_of db_api) ]]; then
    say docker
  fi
}

# recorded NAME: a setting with which start_all.sh started the stack: APP_TYPE, MODEL_NAME, DEVICE, PORT, PUBLISH, MODEL_PORT.
recorded() { sed -n "s/^$1=//p" "$state/stack" 2>/dev/null || true; }

part_runs() {
  case $1 in
    docker) container_runs "$2" ;;
    *) process_runs "$2" ;;
  esac
}

# get_health MODE PART: the part's response to /health/ready, JSON; fails unless the part is ready.
get_health() {
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

# hex_address ADDRESS: in the format of /proc/net/tcp; empty for 0.0.0.0 and for IPv6.
hex_address() {
  local a b c d
  IFS=. read -r a b c d <<<"$1"
  if [[ $1 != 0.0.0.0 && -n $d ]]; then printf '%02X%02X%02X%02X' "$d" "$c" "$b" "$a"; fi
}

# port_is_taken ADDRESS PORT: whether a process listens there, from the kernel's table, or else by connecting.
port_is_taken() {
  if [[ ! -r /proc/net/tcp ]]; then
    (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null
    return
  fi
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk -v port="$(printf %04X "$2")" -v address="$(hex_address "$1")" '
      $4 == "0A" {
        split($2, at, ":")
        # An IPv4 address may be the end of an IPv6 address; zeros are all addresses.
        same = address == "" || at[1] ~ /^0+$/ || substr(at[1], length(at[1]) - 7) == address
        if (at[2] == port && same) taken = 1
      }
      END { exit !taken }'
}
