# shellcheck shell=bash
# The container side of start_all.sh and build_all.sh. Sourced after lib.sh.
# shellcheck disable=SC2154  # root comes from lib.sh; device, app_type, model_name, port, publish and workers from start_all.sh

# The sources of each image. Models are mounted, and not part of it.
sources_of() {
  case $1 in
    web_api) printf '%s\0' Cargo.toml Cargo.lock .dockerignore crates db_api/Cargo.toml db_api/src web_api ;;
    model_api)
      printf '%s\0' Cargo.toml Cargo.lock .dockerignore crates model_api/Cargo.toml model_api/src model_api/Dockerfile \
        scripts/fetch_onnxruntime.sh scripts/onnxruntime-cpu.txt scripts/onnxruntime-gpu.txt
      ;;
    db_api) printf '%s\0' .dockerignore db_api/Dockerfile db_api/redis.conf db_api/start.sh db_api/ask.sh db_api/health.sh ;;
  esac
}

sha256=(sha256sum)
have sha256sum || sha256=(shasum -a 256)

# One hash over the names and contents of a part's sources. Needs no Git, since the tree may come from an archive.
hash_sources() (
  cd "$root" || exit
  sources_of "$1" |
    xargs -0 -I {} find {} -type f ! -path '*/tests/*' ! -name '*.md' ! -name '.*.sw?' -print0 |
    LC_ALL=C sort -z | xargs -0 "${sha256[@]}" | cat - <(setting RUST_IMAGE '') <(setting DEBIAN_IMAGE '') |
    "${sha256[@]}" | cut -d ' ' -f 1
)

image_of() {
  case $1 in
    model_api) say "mlserve/model_api:$(model_api_tag)" ;;
    *) say "mlserve/$1:latest" ;;
  esac
}

model_api_tag() { if [[ ${with_gpu:-no} == yes ]]; then say gpu; else say latest; fi; }

image_is_current() {
  [[ $(docker image inspect --format '{{index .Config.Labels "mlserve.sources"}}' "$(image_of "$1")" 2>/dev/null) == "$2" ]]
}

# build_images PART…: builds images that are missing or out of date. Docker's progress is shown.
build_images() {
  local part hash number=0 begun=$SECONDS is_announced=no
  for part in "$@"; do
    number=$((number + 1))
    hash=$(hash_sources "$part")
    if image_is_current "$part" "$hash"; then
      say "[$number/$#] $(image_of "$part") is up to date"
      continue
    fi
    if [[ $is_announced == no ]]; then
      announce_build
      is_announced=yes
    fi
    say "[$number/$#] building $(image_of "$part")"
    with_sources "$part" "$hash" compose build "$part" ||
      stop_with 1 "the image of $part was not built: see above; a full disk and a registry out of reach are the usual reasons"
    say "[$number/$#] $(image_of "$part") is built, after $((SECONDS - begun)) s"
  done
}

# Prints the cost of a build before it begins, with base images, build cache and images.
announce_build() {
  local megabytes=6000 folder
  if [[ ${with_gpu:-no} == yes ]]; then megabytes=12000; fi
  folder=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
  need_disk "$folder" "$megabytes" "building the images" "docker system prune frees what Docker does not use"
  say "building the images. The first time takes about 6 minutes on two idle cores, 20 on busy ones, and $((megabytes / 1000)) GB of disk;"
  say "later builds only take the time of the changed part. Docker's progress follows."
}

with_sources() {
  local name
  name=$(tr '[:lower:]' '[:upper:]' <<<"$1")_SOURCES
  export "$name=$2" MODEL_API_TAG ONNXRUNTIME
  MODEL_API_TAG=$(model_api_tag)
  ONNXRUNTIME=cpu
  if [[ ${with_gpu:-no} == yes ]]; then ONNXRUNTIME=gpu; fi
  "${@:3}"
}

# Checks the versions and the memory of Docker before anything is built.
check_docker() {
  local engine compose
  engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) || engine=''
  compose=$(docker compose version --short 2>/dev/null) || compose=''
  at_least "${engine:-0}" "$oldest_engine" || warn "Docker Engine ${engine:-of unknown version} is older than $oldest_engine, the oldest that is tested"
  at_least "${compose#v}" "$oldest_compose" || warn "Docker Compose ${compose:-of unknown version} is older than $oldest_compose, the oldest that is tested"
  need_memory "$(($(docker info --format '{{.MemTotal}}' 2>/dev/null || say 0) / 1000000))"
}

# The oldest versions that are tested.
oldest_engine=20.10 oldest_compose=2.26

# Selects the ONNX Runtime of the image. CUDA's is 1.6 GB larger, so it is used only if Docker can give a GPU to a container.
choose_image() {
  with_gpu=no
  if [[ $device == cpu ]]; then return; fi
  if docker info --format '{{json .Runtimes}}' | grep -q '"nvidia"'; then
    with_gpu=yes
  elif [[ $device == cuda ]]; then
    stop_with 1 "--device cuda: this Docker engine has no access to an NVIDIA GPU; install the NVIDIA Container Toolkit, or use --device auto"
  elif have nvidia-smi; then
    warn "there is an NVIDIA GPU but no NVIDIA Container Toolkit: the models run on the CPU"
  fi
}

# The password and the secret are generated once and kept: never overwritten, readable only by their owner.
write_env() {
  if [[ -e $root/.env ]]; then
    [[ -n $(setting REDIS_PASSWORD '') ]] || stop_with 1 "$root/.env has no line REDIS_PASSWORD=…: add one, or remove the file"
    # A file of an earlier version has no secret.
    [[ -n $(setting MODEL_API_SECRET '') ]] || printf '\n%s\n' "MODEL_API_SECRET=$(random_hex)" >>"$root/.env" ||
      stop_with 1 "$root/.env cannot be written: add a line MODEL_API_SECRET=… with at least 16 characters"
    return
  fi
  (
    umask 077
    printf '%s\n' "# Written by start_all.sh, read by Docker Compose. Settings of docs/CONFIGURATION.md may be added." \
      "COMPOSE_PROJECT_NAME=mlserve" "REDIS_PASSWORD=$(random_hex)" "MODEL_API_SECRET=$(random_hex)" >"$root/.env.new"
    # A link fails if another start was faster; a move would overwrite its file.
    ln "$root/.env.new" "$root/.env"
    rm -f "$root/.env.new"
  )
}

# An existing private network must be a bridge that no other stack uses.
check_network() {
  local name found owner driver internal others remedy
  name=$(stack_network)
  found=$(describe_network "$name") || return 0
  read -r owner driver internal <<<"$found"
  [[ $owner != "$(project)" ]] || return 0
  remedy="choose another: STACK_NETWORK=mlserve_private ./start_all.sh …"
  [[ $owner == - ]] || stop_with 1 "the network $name belongs to the Compose project $owner; $remedy"
  [[ $driver == bridge ]] || stop_with 1 "the network $name exists and its driver is $driver, not bridge; remove it (docker network rm $name), or $remedy"
  others=$(docker ps --all --filter "network=$name" --format '{{.Label "com.docker.compose.project"}} {{.Names}}' |
    awk -v ours="$(project)" '$1 != ours { print $NF }' | paste -s -d ' ' -)
  [[ -z $others ]] || stop_with 1 "other containers use the network $name, and their names could conflict with those of this stack: $others; remove them, or $remedy"
  at_least "$(docker compose version --short | sed 's/^v//')" 2.24.4 ||
    stop_with 1 "to use the existing network $name Compose 2.24.4 or newer is needed; remove it (docker network rm $name; a private one is then created), or $remedy"
  say "the network $name exists and is used"
  if [[ $internal != true ]]; then
    warn "the network $name is not internal: model_api and db_api have external access, and this machine reaches them; after docker network rm $name a start creates a private one"
  fi
}

# Changes only the number of job workers: Compose uses the settings with which the stack was started.
change_workers() (
  local name
  [[ -n $(stack_settings) ]] || stop_with 1 "an older version started this stack: ./stop_all.sh, then start it again with --workers $1"
  change_stack JOB_WORKERS "$1"
  while IFS= read -r name; do unset "$name"; done < <(compose_variables)
  unset COMPOSE_FILE
  cd "$root" || exit
  docker compose --project-name "$(project)" up --detach --no-build --no-recreate job_worker
)

start_containers() {
  choose_image
  check_docker
  check_network
  write_env
  build_images db_api model_api web_api
  record_start
  export APP_TYPE=$app_type MODEL_NAME=$model_name DEVICE=$device PORT=$port PUBLISH=$publish JOB_WORKERS=$workers
  export MODEL_API_TAG STACK_NETWORK MODELS_DIR
  MODEL_API_TAG=$(model_api_tag) STACK_NETWORK=$(stack_network) MODELS_DIR=$(find_models_dir)
  record_stack "$(compose_files)"
  # The output is shown, and kept for explain_failure.
  if ! compose up --detach --no-build --remove-orphans 2>&1 | tee "$state/compose.log"; then explain_failure; fi
}

# A container that publishes the port may be missing in the kernel's table.
check_published() {
  local other
  other=$(docker ps --filter "publish=$port" --format '{{.Names}} {{.Ports}}' | awk -v port=":$port->" 'index($0, port) { print $1; exit }')
  [[ -z $other ]] || stop_with 1 "the container $other has it: $(port_in_use "$port" PORT)"
}

# Removes a partially started stack and prints the reason.
explain_failure() {
  compose down --remove-orphans >/dev/null 2>&1 || warn "the started containers could not be removed: ./stop_all.sh"
  rm -f "$state/stack"
  if grep -qE 'port is already allocated|address already in use' "$state/compose.log"; then
    stop_with 1 "$(port_in_use "$port" PORT)"
  elif grep -q 'cannot assign requested address' "$state/compose.log"; then
    stop_with 1 "PUBLISH '$publish' is no address of this machine: 127.0.0.1 (the default), 0.0.0.0 (all), or one that 'ip address' lists"
  fi
  stop_with 1 "the containers did not start and were removed: see above"
}
