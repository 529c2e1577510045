#!/usr/bin/env bash
# Builds the three images: build_all.sh [--gpu]. With --gpu also mlserve/model_api:gpu, with CUDA's libraries (1.6 GB).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/scripts/lib.sh"
# shellcheck source=scripts/images.sh
source "$root/scripts/images.sh"

show_sizes() {
  docker image ls --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}\t{{.CreatedSince}}' 'mlserve/*'
}

main() {
  local gpu=no
  case "$*" in
    '') ;;
    --gpu) gpu=yes ;;
    -h | --help) say "usage: build_all.sh [--gpu]" && exit 0 ;;
    *) stop_with "$usage_error" "unknown arguments '$*': there is --gpu" ;;
  esac
  engine_answers || stop_with 1 "$no_engine; ./start_all.sh --native needs none"
  compose_answers || stop_with 1 "$no_compose"
  build_images db_api model_api web_api
  if [[ $gpu == yes ]]; then with_gpu=yes build_images model_api; fi
  show_sizes
}

main "$@"
