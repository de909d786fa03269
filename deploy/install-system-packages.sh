#!/usr/bin/env bash
# Installs what pip cannot: Python's own venv module, where the distribution splits it off.
# Usage: deploy/install-system-packages.sh [PYTHON]
set -euo pipefail

python=${1:-python3}

if ! command -v "$python" >/dev/null; then
    echo "error: there is no $python. Install Python 3.11 or newer, or name one: make PYTHON=..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old. Name a newer one: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "error: $python lacks venv. Install your system's package for it, then try again." >&2
    exit 1
fi
as_root=()
# Debian's python3-venv serves its default Python only; each version has a package of its own.
package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
        echo "error: $python lacks venv. Run: sudo apt-get install $package" >&2
        exit 1
    fi
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"
