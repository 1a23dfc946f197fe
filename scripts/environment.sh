# Sourced by the scripts beside it. Makes .venv with the packages that they need, and updates it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; found: $(python3 --version 2>&1)." \
    "Install one, or name it: PYTHON=/path/to/python3 $0" >&2
  return 1
}

# install_package PACKAGE COMMAND...: installs a Debian package, unless one of its commands is there.
install_package() {
  local as_root= package=$1 name
  shift
  for name in "$@"; do
    if command -v "$name" >/dev/null; then
      return
    fi
  done
  if ! command -v apt-get >/dev/null; then
    echo "$package is not installed, and there is no apt-get to install it with." >&2
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    as_root=sudo
  fi
  echo "Installing $package ..." >&2
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "$package" >/dev/null
}

# install EXTRAS: installs the project with extras ("" for none), if that is not done yet.
install() {
  local extras=$1 python stamp wanted
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    if ! "$python" -m venv "$venv"; then
      rm -rf "$venv"
      echo "$python cannot make a virtual environment." \
        "On Debian and Ubuntu: apt install python3-venv" >&2
      return 1
    fi
  fi
  stamp=$venv/.installed${extras:+-$extras}
  wanted=$(cksum <"$root/pyproject.toml")
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing into $venv ..." >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --editable "$root${extras:+[$extras]}"
    echo "$wanted" >"$stamp"
  fi
}
