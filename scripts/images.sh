# shellcheck shell=bash
# The container side of start_all.sh and build_all.sh. Sourced after lib.sh.
# shellcheck disable=SC2154  # root comes from lib.sh; device, app_type, model_name and port from start_all.sh

# What goes into each image. The models do not: they are mounted.
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

# One hash over the names and contents of a part's sources. Needs no git: the tree may have come as an archive.
hash_sources() (
  cd "$root" || exit
  sources_of "$1" |
    xargs -0 -I {} find {} -type f ! -path '*/tests/*' ! -name '*.md' ! -name '.*.sw?' -print0 |
    LC_ALL=C sort -z | xargs -0 "${sha256[@]}" | "${sha256[@]}" | cut -d ' ' -f 1
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

# build_images PART…: those that are missing or older than their sources. Docker's own progress is shown.
build_images() {
  local part hash
  for part in "$@"; do
    hash=$(hash_sources "$part")
    if image_is_current "$part" "$hash"; then
      say "$(image_of "$part") is up to date"
      continue
    fi
    say "building $(image_of "$part") (the first time takes minutes)"
    with_sources "$part" "$hash" compose build "$part" ||
      stop_with 1 "the image of $part was not built: see above; a full disk and a registry out of reach are the usual reasons"
  done
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

# Which ONNX Runtime the image gets: CUDA's is 1.6 GB larger, so only where a card can be handed to a container.
choose_image() {
  with_gpu=no
  if [[ $device == cpu ]]; then return; fi
  if docker info --format '{{json .Runtimes}}' | grep -q '"nvidia"'; then
    with_gpu=yes
  elif [[ $device == cuda ]]; then
    stop_with 1 "--device cuda: this Docker engine hands out no NVIDIA card; install the NVIDIA Container Toolkit, or use --device auto"
  elif have nvidia-smi; then
    warn "there is an NVIDIA card but no NVIDIA Container Toolkit: the models run on the processor"
  fi
}

# The password and the secret are made once and kept: never overwritten, readable for their owner alone.
write_env() {
  if [[ -e $root/.env ]]; then
    [[ -n $(setting REDIS_PASSWORD '') ]] || stop_with 1 "$root/.env has no line REDIS_PASSWORD=…: add one, or remove the file"
    # A file of an earlier version has none.
    [[ -n $(setting MODEL_API_SECRET '') ]] || printf '\n%s\n' "MODEL_API_SECRET=$(random_hex)" >>"$root/.env" ||
      stop_with 1 "$root/.env cannot be written: add a line MODEL_API_SECRET=… with at least 16 characters"
    return
  fi
  (
    umask 077
    printf '%s\n' "# Made by start_all.sh, read by Docker Compose; any setting of the README may be added." \
      "COMPOSE_PROJECT_NAME=mlserve" "REDIS_PASSWORD=$(random_hex)" "MODEL_API_SECRET=$(random_hex)" >"$root/.env.new"
    # A link fails if somebody was faster; a move would overwrite.
    ln "$root/.env.new" "$root/.env"
    rm -f "$root/.env.new"
  )
}

start_containers() {
  choose_image
  write_env
  build_images db_api model_api web_api
  record_start
  APP_TYPE=$app_type MODEL_NAME=$model_name DEVICE=$device PORT=$port MODEL_API_TAG=$(model_api_tag) \
    compose up --detach --no-build --remove-orphans ||
    stop_with 1 "the containers did not start: see above; ./stop_all.sh takes away what is there"
}
