#!/bin/sh
# Starts SLURM with two nodes, n1 and n2, on this machine, to try scripts and sweeps before they go to a real cluster.
#
#   sh experiments/cluster/local_cluster.sh start    # prints the line that makes SLURM's commands find it
#   sh experiments/cluster/local_cluster.sh stop     # ends all jobs and daemons, and deletes the cluster's folder
#   sh experiments/cluster/local_cluster.sh run COMMAND    # starts, runs the command with LOCAL_CLUSTER set, and stops
#
# It needs root and Debian or Ubuntu, and installs the packages slurm-wlm and munge. The cluster has a folder
# (LOCAL_CLUSTER, by default /var/tmp/jaxsel-cluster) with configuration, key and logs, and takes free ports. Outside
# of this folder it adds one line to /etc/hosts, which `stop` removes. The packages stay.
#
# Every node claims 4 CPUs and 6000 MB, but SLURM does not hold jobs to them. There are no GPUs, no accounting (sacct)
# and no control groups. The partition `low` gives its nodes to jobs in the partition `high`: its own jobs receive
# SIGTERM, have 60 seconds, and are queued again. SLURM queues the jobs of a node that has died again after 15 seconds.
set -eu
DIR=${LOCAL_CLUSTER:-/var/tmp/jaxsel-cluster}
MARK='# jaxsel: local_cluster.sh'

fail() {
  echo "local_cluster.sh: $1" >&2
  exit 1
}

install() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || fail "this needs Debian's package slurm-wlm, but there is no apt-get; use a Debian container"
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$DIR/apt.log" 2>&1 ||
    fail "apt-get cannot install slurm-wlm and munge: $(tail -n 3 "$DIR/apt.log")"
}

# The first port from $1 on that no socket of this machine uses
free_port() {
  port=$1
  while grep -qs ":$(printf %04X "$port") " /proc/net/tcp /proc/net/tcp6; do
    port=$((port + 1))
  done
  echo "$port"
}

configure() {
  host=$(hostname -s)
  control=$(free_port 16817)
  first=$(free_port 17001)
  second=$(free_port $((first + 1)))
  cat >"$DIR/slurm.conf" <<CONF
ClusterName=jaxsel
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Jobs that are queued again start after cred_expire seconds (SLURM's default: 120).
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool-%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
SlurmdTimeout=15
KillWait=5
MailProg=/bin/true
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$first,$second] CPUs=4 RealMemory=6000 State=UNKNOWN
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=OFF State=UP
PartitionName=low Nodes=n[1-2] MaxTime=INFINITE PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE PriorityTier=2 State=UP
CONF
}

# Whether the process $1 is a daemon of this cluster: after a crash its number may belong to another program
daemon() {
  tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$DIR/"
}

# Daemons of an earlier start that did not end well
running() {
  for file in "$DIR"/*.pid; do
    [ -s "$file" ] && daemon "$(cat "$file")" && return 0
  done
  return 1
}

# Whether this folder is a cluster's
ours() {
  [ -e "$DIR/slurm.conf" ] || [ -e "$DIR/apt.log" ]
}

idle() {
  [ "$(sinfo --noheader --partition=gpu --states=idle --format=%D 2>/dev/null)" = 2 ]
}

start() {
  [ "$(id -u)" = 0 ] || fail "SLURM's daemons need root; run it as root, for example in a container"
  running && fail "a cluster already runs in $DIR; stop it first"
  ours && rm -rf "$DIR" # of a cluster that was killed, whose jobs would start again
  mkdir -p "$DIR/state" "$DIR/spool-n1" "$DIR/spool-n2"
  chmod 755 "$DIR"
  install
  configure
  export SLURM_CONF="$DIR/slurm.conf"
  grep -qF "$MARK" /etc/hosts || echo "127.0.0.1 n1 n2 $MARK" >>/etc/hosts
  (umask 077 && dd if=/dev/urandom of="$DIR/munge.key" bs=1024 count=1 2>/dev/null)
  munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --pid-file="$DIR/munged.pid" \
    --log-file="$DIR/munged.log" --seed-file="$DIR/munge.seed" || fail "munged does not start; see $DIR/munged.log"
  slurmctld -f "$SLURM_CONF" || fail "slurmctld does not start; see $DIR/slurmctld.log"
  slurmd -f "$SLURM_CONF" -N n1 && slurmd -f "$SLURM_CONF" -N n2 || fail "slurmd does not start; see $DIR/slurmd-n1.log"
  for second in $(seq 180); do
    idle && break
    # a node that was slow to answer is marked as down, and stays so
    [ $((second % 15)) -ne 0 ] || scontrol update NodeName=n[1-2] State=RESUME 2>/dev/null || true
    sleep 1
  done
  if ! idle; then
    { sinfo --list-reasons --long; squeue; tail -n 15 "$DIR"/slurmctld.log "$DIR"/slurmd-n?.log; } >&2 || true
    fail "the nodes are not idle after 180 s; SLURM's last messages are above"
  fi
  sinfo
  echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
  [ -e "$DIR" ] || return 0
  ours || fail "$DIR holds no cluster"
  export SLURM_CONF="$DIR/slurm.conf"
  if running; then
    scancel --user=root >/dev/null 2>&1 || true
    for _ in $(seq 20); do
      [ -z "$(squeue --noheader 2>/dev/null)" ] && break
      sleep 1
    done
  fi
  pids=$(cat "$DIR"/*.pid 2>/dev/null || true)
  for pid in $pids; do
    daemon "$pid" && kill "$pid" 2>/dev/null || true
  done
  for _ in $(seq 20); do
    alive=''
    for pid in $pids; do # a daemon deletes its file before it ends
      daemon "$pid" && alive="$alive $pid"
    done
    [ -n "$alive" ] || break
    sleep 1
  done
  [ -z "$alive" ] || fail "these daemons do not end:$alive; see $DIR"
  if grep -qF "$MARK" /etc/hosts; then
    rest=$(grep -vF "$MARK" /etc/hosts || true)
    printf '%s\n' "$rest" >/etc/hosts # in place: a container cannot replace this file
  fi
  rm -rf "$DIR"
}

run() {
  running && fail "a cluster already runs in $DIR; stop it first"
  trap stop EXIT
  trap 'exit 130' INT TERM
  start
  export LOCAL_CLUSTER="$DIR"
  "$@"
}

case ${1:-} in
start | stop) "$1" ;;
run) shift && run "$@" ;;
*) fail "give start, stop or run" ;;
esac
