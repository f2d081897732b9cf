#!/usr/bin/env bash
# Measures one GPU in 10 minutes, on a machine without network: bash benchmarks/gpu.sh OUT [options of benchmarks/gpu.py]
# Needs Python 3.12 with JAX for CUDA. Packages that are missing are taken from wheels/ beside this checkout's
# README, or $WHEELS, if there is such a folder; parts that lack a package are left out, and the tables say so.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-${OUT:-}}"
[ -n "$out" ] || { echo "usage: bash benchmarks/gpu.sh OUT [--minutes=10] [--dry_run]" >&2; exit 2; }
shift || true
mkdir -p "$out"
out="$(cd "$out" && pwd)"
python="${PYTHON:-python3}"
wheels="${WHEELS:-wheels}"
if [ -d "$wheels" ]; then # beside the packages of the machine, which stay as they are
    "$python" -m venv --system-site-packages "$out/venv"
    python="$out/venv/bin/python"
    "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl ||
        echo "the wheels of $wheels do not fit this Python: $("$python" --version)" >&2
fi
case " $* " in *" --dry_run "*) export JAX_PLATFORMS=cpu ;; esac
# Each part is a process; PyTorch shares the device's memory with JAX.
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR="$out/xla" TRIPTYCH_CACHE="$out/cache"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m benchmarks.gpu "$out" "$@"
