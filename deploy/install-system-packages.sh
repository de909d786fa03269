#!/usr/bin/env bash
# Installs what pip cannot: Python's own venv module, where the distribution splits it off, and of
# what the tests start (the words redis and compiler) whatever this machine lacks.
# Usage: deploy/install-system-packages.sh [PYTHON [redis] [compiler]]
set -euo pipefail

python=${1:-python3}
wanted=" ${*:2} "

if ! command -v "$python" >/dev/null; then
    echo "error: there is no $python. Install Python 3.11 or newer, or name one: make PYTHON=..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old. Name a newer one: make PYTHON=python3.12 ..." >&2
    exit 1
fi

missing=()
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(venv)
fi
if [[ $wanted == *" redis "* ]] && ! command -v redis-server >/dev/null; then
    missing+=(redis)
fi
if [[ $wanted == *" compiler "* ]] && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    missing+=(compiler)
fi
if [ "${#missing[@]}" -eq 0 ]; then
    exit 0
fi

# Debian's python3-venv serves its default Python only; each version has a package of its own.
debian_venv=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
packages=()
for name in "${missing[@]}"; do
    case $name in
        venv) packages+=("$debian_venv") ;;
        redis) packages+=(redis) ;;
        compiler) packages+=(g++) ;;
    esac
done

if command -v apt-get >/dev/null; then
    # On Debian, redis is a bundle and redis-server the server alone.
    packages=("${packages[@]/#redis/redis-server}")
    install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}")
elif command -v dnf >/dev/null && [[ " ${missing[*]} " != *" venv "* ]]; then
    packages=("${packages[@]/#g++/gcc-c++}")
    # Newer releases have Valkey in Redis' place, with the same command by this package.
    dnf -q list redis >/dev/null 2>&1 || packages=("${packages[@]/#redis/valkey-compat-redis}")
    install=(dnf install -y -q "${packages[@]}")
elif command -v brew >/dev/null && [ "${missing[*]}" = redis ]; then
    exec brew install --quiet redis # which refuses to run as root
else
    echo "error: ${missing[*]} is missing, and this script knows apt, dnf and brew only. Install" \
        "your system's package for it (a redis-server 6.2 or newer, g++ 12 or newer, $python's venv), then try" \
        "again." >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
        echo "error: ${missing[*]} is missing. Run: sudo ${install[*]}" >&2
        exit 1
    fi
fi
if command -v apt-get >/dev/null; then
    "${as_root[@]}" apt-get update -qq
fi
"${as_root[@]}" "${install[@]}"
