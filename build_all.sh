#!/usr/bin/env bash
# Builds the three images, or one of model_api that contains models.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/images.sh
source "$root/scripts/images.sh"
# shellcheck source=scripts/bake.sh
source "$root/scripts/bake.sh"

usage="usage: build_all.sh [--gpu] [--models DIR --tag NAME]
  --gpu         also mlserve/model_api:gpu, with CUDA's libraries (1.6 GB)
  --models DIR  only an image of model_api that contains the models of DIR and runs without a mount
  --tag NAME    the name of that image; with --gpu it has CUDA's libraries"

show_sizes() {
  docker image ls --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}\t{{.CreatedSince}}' 'mlserve/*'
}

read_arguments() {
  with_gpu=no models='' tag=''
  while (($#)); do
    case $1 in
      --gpu) with_gpu=yes ;;
      --models) models=${2:-} && shift ;;
      --tag) tag=${2:-} && shift ;;
      -h | --help) say "$usage" && exit 0 ;;
      *) stop_with "$usage_error" "unknown argument '$1'"$'\n'"$usage" ;;
    esac
    shift || stop_with "$usage_error" "--models and --tag need a value"$'\n'"$usage"
  done
}

main() {
  read_arguments "$@"
  if [[ -n $models$tag ]]; then check_bake "$models" "$tag"; fi
  engine_responds || stop_with 1 "$no_engine; ./start_all.sh --native needs none"
  compose_responds || stop_with 1 "$no_compose"
  if [[ -n $models ]]; then
    bake "$models" "$tag"
    return
  fi
  local gpu=$with_gpu
  with_gpu=no build_images db_api model_api web_api
  if [[ $gpu == yes ]]; then with_gpu=yes build_images model_api; fi
  show_sizes
}

main "$@"
