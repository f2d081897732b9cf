#!/bin/bash
# base: one process of the run. Written by `python -m launch`.
set -euo pipefail
export PATH=/home/me/venv/bin:"$PATH"
export PYTHONPATH=/launches/slurm_array/code-0123456789ab-def1d786 PYTHONSAFEPATH=1
cd /home/me/triptych
case "$SLURM_ARRAY_TASK_ID" in
0) set -- python /launches/slurm_array/code-0123456789ab-def1d786/train.py --config=/launches/slurm_array/code-0123456789ab-def1d786/configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=/shared/runs/seed0 --config.seed=0 ;;
1) set -- python /launches/slurm_array/code-0123456789ab-def1d786/train.py --config=/launches/slurm_array/code-0123456789ab-def1d786/configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=/shared/runs/seed1 --config.seed=1 ;;
2) set -- python /launches/slurm_array/code-0123456789ab-def1d786/train.py --config=/launches/slurm_array/code-0123456789ab-def1d786/configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=/shared/runs/seed2 --config.seed=2 ;;
esac
echo "== $(date -u +%FT%TZ) base on $(uname -n): commit 0123456789ab-def1d786"
python --version
env | grep -E '^(CUDA_VISIBLE_DEVICES|JAX_|LIBTPU_|NCCL_|SLURM_(JOB_ID|PROCID|NTASKS|STEP_NODELIST)|TPU_|TRIPTYCH_|XLA_)' | LC_ALL=C sort || true
printf '== %s\n' "$*"
exec "$@"
