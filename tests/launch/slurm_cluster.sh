#!/bin/bash
# A Slurm cluster of this machine alone, in a directory: munged, slurmctld and slurmd of Debian's packages
# munge and slurm-wlm. Nothing outside the directory is written, and no configuration of the machine is read.
#
#     bash slurm_cluster.sh start DIR     # then: export SLURM_CONF=DIR/slurm.conf
#     bash slurm_cluster.sh stop DIR
set -euo pipefail
action="$1"
mkdir -p "$2"
dir="$(cd "$2" && pwd)"
export SLURM_CONF="$dir/slurm.conf" PATH="$PATH:/usr/sbin:/sbin"

stop() {
  if [ -s "$dir/slurmctld.pid" ]; then # no step survives its cluster
    timeout 10 scancel --full --signal=KILL --user="$(id -un)" || true
    timeout 10 scancel --user="$(id -un)" || true
    for _ in $(seq 50); do
      [ -n "$(timeout 5 squeue --noheader || true)" ] || break
      sleep 0.2
    done
  fi
  for name in slurmd slurmctld munged; do
    if [ -s "$dir/$name.pid" ]; then
      pid="$(cat "$dir/$name.pid")"
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 100); do
        [ -d "/proc/$pid" ] || break
        sleep 0.1
      done
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

start() {
  mkdir -p "$dir/state" "$dir/spool"
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" 2>"$dir/munged.err"
  host="$(hostname -s)"
  # Four slots, also on two cores: KillWait is long, because a shared machine is slow to save.
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CryptoType=crypto/munge
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=120
SchedulerParameters=batch_sched_delay=1,sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  slurmctld
  slurmd
  for _ in $(seq 100); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && return
    sleep 0.2
  done
  echo "the cluster did not start; the ends of its logs:" >&2
  tail -n 5 "$dir"/*.log >&2
  exit 1
}

case "$action" in
start) start ;;
stop) stop ;;
*)
  echo "usage: bash slurm_cluster.sh start|stop DIR" >&2
  exit 2
  ;;
esac
