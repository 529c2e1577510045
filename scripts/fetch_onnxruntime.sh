#!/usr/bin/env bash
# Puts ONNX Runtime's shared libraries into a folder: fetch_onnxruntime.sh cpu|gpu FOLDER
#
# They are unpacked from the Python wheels pinned in onnxruntime-cpu.txt and onnxruntime-gpu.txt. `pip download` verifies their
# SHA-256. Nothing is installed, and the Python version of the wheels does not matter. All libraries are in one folder, so that one
# LD_LIBRARY_PATH finds them; libonnxruntime.so links to the versioned file.
# Used by start_all.sh --native, test_all.sh and model_api/Dockerfile. A complete folder is not changed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
flavour=${1:?cpu or gpu}
folder=${2:?the folder to fill}
pins=$here/onnxruntime-$flavour.txt

stop_with() {
  echo "fetch_onnxruntime.sh: $*" >&2
  exit 1
}

check_machine() {
  [[ -f $pins ]] || stop_with "'$flavour' is neither cpu nor gpu"
  case $flavour-$(uname -s)-$(uname -m) in
    cpu-Linux-x86_64 | cpu-Linux-aarch64 | gpu-Linux-x86_64) ;;
    *) stop_with "there is no $flavour library for $(uname -s) on $(uname -m)" ;;
  esac
  python3 -m pip --version >/dev/null 2>&1 ||
    stop_with "Python 3 with pip is needed to fetch ONNX Runtime: apt install python3-pip (or set ORT_DYLIB_PATH to a libonnxruntime.so of your own)"
}

download_wheels() {
  local platform options=()
  for platform in manylinux_2_28 manylinux_2_27 manylinux2014 manylinux_2_17; do
    options+=(--platform "${platform}_$(uname -m)")
  done
  python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --implementation cp --python-version 3.12 "${options[@]}" --dest "$1" --requirement "$pins" >&2 ||
    stop_with "pip could not fetch the wheels of $(basename "$pins"): see above"
}

# The libraries of each wheel that are loaded at run time; the rest are Python modules and unused interfaces.
unpack_libraries() {
  python3 - "$1" "$2" <<'PYTHON'
import fnmatch, pathlib, shutil, sys, zipfile

wheels, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
unused = ["*tensorrt*", "libnvblas*", "*.alt.so*"]
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            name = entry.rsplit("/", 1)[-1]
            library = name.startswith("lib") and ".so" in name
            if library and not any(fnmatch.fnmatch(name, pattern) for pattern in unused):
                with archive.open(entry) as source, open(target / name, "wb") as copy:
                    shutil.copyfileobj(source, copy)
runtime = next(target.glob("libonnxruntime.so.*"))
(target / "libonnxruntime.so").symlink_to(runtime.name)
PYTHON
}

main() {
  check_machine
  if cmp -s "$pins" "$folder/pins.txt"; then return; fi
  [[ -e $folder/pins.txt || -z $(ls -A "$folder" 2>/dev/null) ]] || stop_with "$folder holds something else"
  local part=$folder.part
  rm -rf "$part"
  mkdir -p "$part/wheels" "$part/libraries"
  download_wheels "$part/wheels"
  unpack_libraries "$part/wheels" "$part/libraries"
  chmod 0755 "$part/libraries"/*.so*
  # The pins are written last: they mark the folder as complete.
  cp "$pins" "$part/libraries/pins.txt"
  rm -rf "$folder"
  mv "$part/libraries" "$folder"
  rm -rf "$part"
}

main
