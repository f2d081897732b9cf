#!/bin/bash
# base: every worker at its boot. Written by `python -m launch`.
set -euo pipefail
export HOME=/root
mkdir -p /opt/base
cat >/opt/base/task.sh <<'TASK'
#!/bin/bash
# base: one process of the run. Written by `python -m launch`.
set -euo pipefail
mkdir -p /opt/base && cd /opt/base
rm -rf code
git clone --quiet --no-checkout https://example.com/triptych.git code
git -C code checkout --quiet --detach 0123456789abcdef0123456789abcdef01234567
base64 --decode <<'DIFF' | gzip --decompress | git -C code apply --index -
H4sIAAAAAAACA0vJTEtT0NVNzyxRSNQvKUrMzNMrqFRIgjO5dHV1kWS4tLW1kWUB7DEfHD8AAAA=
DIFF
cd code
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
export PATH="$HOME/.local/bin:$PATH"
uv venv --quiet --clear --python 3.11 ../venv
uv pip install --quiet --python ../venv/bin/python --editable '.[tpu,gcs]'
export PATH="$PWD/../venv/bin:$PATH"
export TRIPTYCH_DISTRIBUTED=1
echo "== $(date -u +%FT%TZ) base on $(uname -n): commit 0123456789ab-def1d786"
python --version
env | grep -E '^(CUDA_VISIBLE_DEVICES|JAX_|LIBTPU_|NCCL_|SLURM_(JOB_ID|PROCID|NTASKS|STEP_NODELIST)|TPU_|TRIPTYCH_|XLA_)' | LC_ALL=C sort || true
printf '== %s\n' 'python train.py --config=configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=gs://bucket/base'
python -m tools.prepare --config=configs/decoder.py:size=base --config.mesh.fsdp=8
exec python train.py --config=configs/decoder.py:size=base --config.mesh.fsdp=8 --workdir=gs://bucket/base
TASK
systemctl stop base 2>/dev/null || true
# The main process is Python after `exec`; it has 10 minutes to save.
systemd-run --unit=base --collect --setenv=HOME=/root --property=KillMode=mixed --property=TimeoutStopSec=600 bash /opt/base/task.sh
