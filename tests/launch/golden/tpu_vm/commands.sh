#!/bin/bash
# base: bash commands.sh ACTION. Written by `python -m launch`.
set -euo pipefail
case "${1:-}" in
submit)
  gcloud compute tpus queued-resources create base --node-id=base --project=my-project --zone=us-west4-a --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --metadata-from-file=startup-script=/launches/tpu_vm/startup.sh --spot --service-account=me@project
  ;;
run)
  gcloud compute tpus tpu-vm ssh base --project=my-project --zone=us-west4-a --worker=all '--command=sudo google_metadata_script_runner startup'
  ;;
status)
  gcloud compute tpus queued-resources describe base --project=my-project --zone=us-west4-a '--format=value(state.state)'
  ;;
logs)
  gcloud compute tpus tpu-vm ssh base --project=my-project --zone=us-west4-a --worker=all '--command=uname -n; sudo journalctl --unit=base --lines=20 --no-pager'
  ;;
cancel)
  gcloud compute tpus tpu-vm ssh base --project=my-project --zone=us-west4-a --worker=all '--command=sudo systemctl stop base'
  ;;
delete)
  gcloud compute tpus queued-resources delete base --project=my-project --zone=us-west4-a --force --quiet
  ;;
*)
  echo 'usage: bash commands.sh submit|run|status|logs|cancel|delete' >&2
  exit 2
  ;;
esac
