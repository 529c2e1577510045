# shellcheck shell=bash
# build_all.sh --models DIR --tag NAME: an image of model_api that carries a folder of models. Sourced after images.sh.
# shellcheck disable=SC2154  # root and usage_error come from lib.sh

# Checks the arguments before anything is built.
check_bake() {
  [[ -n $1 && -n $2 ]] || stop_with "$usage_error" "--models DIR and --tag NAME go together"
  [[ -d $1 ]] || stop_with "$usage_error" "--models: there is no folder $1"
  [[ -n $(MODELS_DIR=$(absolute "$1") list_models) ]] ||
    stop_with "$usage_error" "--models: there is no model in $1: no NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx"
}

absolute() (cd "$1" && pwd)

# bake DIR NAME: builds the image under a temporary name, lets model_api load every model in it, and only then tags it NAME.
bake() {
  local models wanted found work image
  models=$(absolute "$1")
  wanted=$(MODELS_DIR=$models list_models)
  build_images model_api
  work=$(mktemp -d)
  image=mlserve/baking:$$
  # Expanded now: the variables are out of scope when the trap runs.
  # shellcheck disable=SC2064
  trap "rm -rf '$work'; docker rm --force 'mlserve_baking_$$' >/dev/null 2>&1 || true; docker image rm '$image' >/dev/null 2>&1 || true" EXIT
  # Docker reads the ignore file beside the Dockerfile, so that nothing is written into the models' folder.
  cp "$root/model_api/Dockerfile.models" "$work/Dockerfile"
  leave_out "$models" >"$work/Dockerfile.dockerignore"
  write_build >"$work/docker-compose.yml"
  say "building $2 with the models of $1"
  BAKED=$image MODELS=$models DOCKERFILE=$work/Dockerfile MODEL_API=$(image_of model_api) NAMES=$(paste -s -d ' ' - <<<"$wanted") \
    docker compose --project-name mlserve_baking --file "$work/docker-compose.yml" build ||
    stop_with 1 "the image was not built: see above"
  found=$(docker run --rm --network none "$image" model_api models) ||
    stop_with 1 "the image was built, but model_api does not run in it: see above"
  [[ $found == "$wanted" ]] ||
    stop_with 1 "the image was built, but holds other models than $1: $(paste -s -d ' ' - <<<"$found")"
  check_loading "$image" "$1"
  docker tag "$image" "$2" || stop_with "$usage_error" "--tag: '$2' is no name for an image"
  say "$2 serves $(paste -s -d ' ' - <<<"$found"); try it: docker run --rm --publish 5050:5050 $2"
}

# check_loading IMAGE DIR: stops unless model_api loads every model of the image.
check_loading() {
  local begun=$SECONDS health='' broken container
  container=$(docker run --detach --name "mlserve_baking_$$" --network none --cap-drop ALL --read-only "$1") ||
    stop_with 1 "the image was built, but no container of it starts: see above"
  say "loading the models of $2"
  while ((SECONDS - begun < ${START_PATIENCE_S:-180})); do
    if ! health=$(docker exec "$container" model_api health 2>&1) &&
      [[ $(docker inspect --format '{{.State.Running}}' "$container") != true ]]; then
      docker logs --tail 15 "$container" >&2
      stop_with 1 "the image was built, but model_api ends in it: see above"
    fi
    health=$(flatten_json <<<"$health" | describe_models)
    if [[ -n $health ]] && ! grep -q ' loading' <<<"$health"; then break; fi
    sleep 0.5
  done
  docker rm --force "$container" >/dev/null
  broken=$(grep -v ' ready' <<<"$health") || return 0
  stop_with 1 "the image was built, but not every model of $2 can be loaded, so it has not been named:"$'\n'"$broken"
}

# Compose, because "docker build" needs the buildx plugin.
write_build() {
  cat <<'YAML'
services:
  model_api:
    image: ${BAKED}
    build:
      context: ${MODELS}
      dockerfile: ${DOCKERFILE}
      args: {MODEL_API: "${MODEL_API}"}
      labels: {mlserve.models: "${NAMES}"}
YAML
}

# Entries of the folder that are not models: hidden files, and folders without a model. Beside a bare file any entry may be its data.
leave_out() {
  local folder bare
  say '**/.*'
  for bare in "$1"/*.{[oO][nN][nN][xX],[oO][rR][tT]}; do [[ ! -f $bare ]] || return 0; done
  for folder in "$1"/*/; do
    folder=$(basename "$folder")
    MODELS_DIR=$1 list_models | grep -qxF -e "$folder" || say "/${folder//[*?\[\]\\]/?}"
  done
}
