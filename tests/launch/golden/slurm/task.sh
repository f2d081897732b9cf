#!/bin/bash
# base: one process of the run. Written by `python -m launch`.
set -euo pipefail
export PATH=/home/me/venv/bin:"$PATH"
export PYTHONPATH=/launches/slurm/code-0123456789ab-def1d786 PYTHONSAFEPATH=1
cd /home/me/triptych
export TRIPTYCH_DISTRIBUTED=1
export XLA_FLAGS='--xla_a=1 --xla_b=2'
if [ "${1:-}" = prepare ]; then
  exec python -m tools.prepare --config=/launches/slurm/code-0123456789ab-def1d786/configs/decoder.py:size=base --config.mesh.fsdp=8
fi
echo "== $(date -u +%FT%TZ) base on $(uname -n): commit 0123456789ab-def1d786"
python --version
env | grep -E '^(CUDA_VISIBLE_DEVICES|JAX_|LIBTPU_|NCCL_|SLURM_(JOB_ID|PROCID|NTASKS|STEP_NODELIST)|TPU_|TRIPTYCH_|XLA_)' | LC_ALL=C sort || true
printf '== %s\n' 'python train.py --config=configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=/shared/runs/base'
exec python /launches/slurm/code-0123456789ab-def1d786/train.py --config=/launches/slurm/code-0123456789ab-def1d786/configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=/shared/runs/base
