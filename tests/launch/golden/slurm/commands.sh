#!/bin/bash
# base: bash commands.sh ACTION. Written by `python -m launch`.
set -euo pipefail
case "${1:-}" in
submit)
  sbatch --parsable /launches/slurm/job.sbatch
  ;;
status)
  scontrol --oneliner show job "$2"
  ;;
logs)
  bash -c 'tail -n 20 /launches/slurm/logs/*.log'
  ;;
cancel)
  scancel --state=PENDING "$2"
  scancel --batch --signal=USR1 "$2"
  scancel --signal=TERM "$2"
  ;;
*)
  echo 'usage: bash commands.sh submit|status|logs|cancel [JOB]' >&2
  exit 2
  ;;
esac
