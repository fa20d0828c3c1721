#!/bin/sh
# Installs near from this bundle, without a network and without a compiler: sh install.sh [VENV]
#   VENV        folder of the environment (default: .venv)
#   PYTHON      variable: the Python to use (default: the first on PATH of the bundle's version)
#   NEAR_CACHE  variable: folder for the built-in model, embedder and data (default: .cache)
# If it was stopped, run it again.
set -eu

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

bundle=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
[ $# -le 1 ] || fail 'one argument at most: sh install.sh [VENV]'
case ${1:-} in -*) fail "$1 is not a folder: sh install.sh [VENV]" ;; esac
command -v sha256sum >/dev/null || fail 'sha256sum is missing; install coreutils'
for name in SHA256SUMS manifest.json; do
    [ -f "$bundle/$name" ] || fail "$bundle/$name is missing; copy the bundle again"
done

printf 'checking the files of %s\n' "$bundle"
bad=$(cd -- "$bundle" && LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1) || true
[ -z "$bad" ] || fail "$bundle/${bad%%:*} is missing or damaged; copy it again"

wanted=$(sed -n 's/^  "python": "\([0-9.]*\)",$/\1/p' "$bundle/manifest.json")
version='import sys; print("%d.%d" % sys.version_info[:2])'
python='' seen=''
venv=${1:-.venv}
if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- "python$wanted" python3 python; fi
for candidate; do
    has=$("$candidate" -c "$version" 2>/dev/null) || continue
    seen="$seen; $candidate is Python $has"
    if [ "$has" = "$wanted" ]; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "this bundle is for Python $wanted${seen:-; no Python was found}; load one (module load ...), or set PYTHON=/path/to/python$wanted"

exec "$python" "$bundle/install.py" "$venv"
