# shellcheck shell=bash
# Native mode of start_all.sh: two processes on loopback, without Docker. Sourced after lib.sh.
# shellcheck disable=SC2154  # root, state and usage_error come from lib.sh; device, app_type, model_name, port and publish from start_all.sh

check_compiler() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  have cargo || stop_with 1 "no Rust compiler: install Rust $wanted or newer with rustup, or use Docker (--docker)"
  found=$(cd "$root" && cargo --version | cut -d ' ' -f 2)
  at_least "$found" "$wanted" || stop_with 1 "Rust $found is too old: rustup update brings $wanted or newer"
  have cc || stop_with 1 "no C compiler to link with: apt install gcc"
}

build_binaries() {
  local begun=$SECONDS
  if [[ ! -x $(binaries)/web_api || ! -x $(binaries)/model_api ]]; then
    need_disk "$root" 2000 "building the two binaries" "free some, or set CARGO_TARGET_DIR to a folder on another disk"
    say "building the two binaries. The first time takes about 6 minutes on two idle cores, 20 on busy ones, and 2 GB of disk;"
    say "Cargo's progress follows."
  fi
  (cd "$root" && CARGO_INCREMENTAL=0 cargo build --release --locked --bin web_api --bin model_api) ||
    stop_with 1 "the build failed: see above"
  say "the two binaries are built, after $((SECONDS - begun)) s"
}

# Sets ORT_DYLIB_PATH, unless it is set.
fetch_runtime() {
  if [[ -n ${ORT_DYLIB_PATH:-} ]]; then
    [[ -f $ORT_DYLIB_PATH ]] || stop_with "$usage_error" "ORT_DYLIB_PATH: there is no file $ORT_DYLIB_PATH"
    return
  fi
  local flavour=cpu
  if [[ $device != cpu ]] && nvidia-smi -L >/dev/null 2>&1; then flavour=gpu; fi
  [[ $device == cuda && $flavour == cpu ]] &&
    stop_with 1 "--device cuda: no NVIDIA driver responds (nvidia-smi -L); install it, or use --device auto"
  local folder=$state/onnxruntime-$flavour
  [[ -e $folder/pins.txt ]] || say "fetching ONNX Runtime ($flavour) into .mlserve/"
  "$root/scripts/fetch_onnxruntime.sh" "$flavour" "$folder" || exit 1
  ORT_DYLIB_PATH=$folder/libonnxruntime.so
}

# Sets LOCPATH if the system lacks the locale en_US.UTF-8, which scikit-learn's text pipelines need (StringNormalizer). It is
# created in .mlserve/, without root. The operator only uses case mapping, which is the same in C.UTF-8: that is copied if the
# sources of locales are not installed.
make_locale() {
  if [[ -n ${LOCPATH:-} ]] || ! have locale || locale -a 2>/dev/null | grep -qix 'en_US\.utf-\?8'; then return; fi
  local folder=$state/locale/en_US.utf8 plain
  if [[ ! -e $folder ]]; then
    mkdir -p "$state/locale"
    rm -rf "$folder.new"
    if ! { have localedef && localedef --no-archive -i en_US -f UTF-8 "$folder.new" >/dev/null 2>&1; }; then
      rm -rf "$folder.new"
      for plain in /usr/lib/locale/C.utf8 /usr/lib/locale/C.UTF-8; do
        if [[ -d $plain ]]; then cp -r "$plain" "$folder.new" && break; fi
      done
    fi
    [[ ! -d $folder.new ]] || mv "$folder.new" "$folder"
  fi
  if [[ -d $folder ]]; then LOCPATH=$state/locale; else warn "no locale en_US.UTF-8: models that normalise text will not load"; fi
}

# start_process PART VARIABLE=VALUE…: in the background and in its own session, so that a closed terminal does not end it. A
# second process writes its log, readable only by its owner and limited to 10 MB and one previous file of that size.
start_process() {
  local part=$1 log=$state/$1.log
  shift
  [[ ! -e $log ]] || mv -f "$log" "$log.1"
  (umask 077 && : >"$log")
  exec 3> >(LOG_FILE=$log exec setsid "$(binaries)/web_api" log >/dev/null 2>&1)
  env "$@" setsid "$(binaries)/$part" >&3 2>&1 </dev/null 3>&- &
  say $! >"$state/$part.pid"
  exec 3>&-
}

# Exports the settings in .env for the two processes; the environment takes precedence. Containers get them from Compose.
export_settings() {
  local line name
  while IFS= read -r line; do
    case $line in COMPOSE_PROJECT_NAME=* | REDIS_PASSWORD=* | [!A-Z]* | '') continue ;; esac
    name=${line%%=*}
    if [[ -z ${!name:-} ]]; then export "$name=${line#*=}"; fi
  done < <(own_settings)
}

# Sets MODEL_API_SECRET for both processes: from the settings, or generated once and kept in .mlserve/.
model_api_secret() {
  local file=$state/model_api_secret
  if [[ -z ${MODEL_API_SECRET:-} ]]; then
    [[ -s $file ]] || (umask 077 && random_hex >"$file")
    MODEL_API_SECRET=$(cat "$file")
  fi
  export MODEL_API_SECRET
}

start_processes() {
  local metrics model_metrics
  export_settings
  model_port=$(setting MODEL_PORT 5050)
  metrics=$(setting METRICS_PORT 9100)
  model_metrics=$(setting MODEL_METRICS_PORT 9150)
  check_compiler
  check_port 127.0.0.1 "$model_port" MODEL_PORT
  check_port 127.0.0.1 "$metrics" METRICS_PORT
  check_port 127.0.0.1 "$model_metrics" MODEL_METRICS_PORT
  need_memory "$(awk '/^MemTotal:/ { print int($2 / 1000) }' /proc/meminfo 2>/dev/null || say 0)"
  say "no containers: two processes on loopback; web_api caches in its own process${REDIS_URL:+ and in the Redis of REDIS_URL}"
  fetch_runtime
  make_locale
  build_binaries
  record_start
  model_api_secret
  start_process model_api HOST=127.0.0.1 "PORT=$model_port" "METRICS_ADDR=127.0.0.1:$model_metrics" \
    "MODEL_NAME=$model_name" "MODELS_DIR=$(find_models_dir)" "DEVICE=$device" "ORT_DYLIB_PATH=$ORT_DYLIB_PATH" \
    "LD_LIBRARY_PATH=$(dirname "$ORT_DYLIB_PATH")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ${LOCPATH:+"LOCPATH=$LOCPATH"}
  start_process web_api "HOST=$(tr -d '[]' <<<"$publish")" "PORT=$port" "METRICS_ADDR=127.0.0.1:$metrics" \
    "APP_TYPE=$app_type" "MODEL_API_URL=http://127.0.0.1:$model_port"
}

# stop_process PART: sends SIGTERM and waits longer than the drain timeout.
stop_process() {
  local id timeout begun=$SECONDS
  id=$(process_of "$1")
  if [[ -n $id ]]; then
    say "stopping $1"
    kill -TERM "$id" 2>/dev/null || true
    timeout=$((($(setting DRAIN_TIMEOUT_MS 20000) + $(setting LAME_DUCK_MS 500)) / 1000 + 10))
    while process_runs "$1" && ((SECONDS - begun < timeout)); do sleep 0.1; done
    if process_runs "$1"; then
      warn "$1 did not end within $timeout s and is killed"
      kill -KILL "$id" 2>/dev/null || true
    fi
  fi
  rm -f "$state/$1.pid"
}
