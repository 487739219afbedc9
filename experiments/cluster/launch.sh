# Starts `python -m "$@"` once per task of the job, and queues the job again if it was asked to stop. The scripts in this
# folder source it, from the root of the repository; the arguments are a module and its arguments.

# JAX finds the first process through SLURM's variables, torch through these variables.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
# Without this variable, SLURM 22.05 and newer do not give the CPUs to srun.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# JAX and torch share a GPU, so JAX must not allocate all of its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
# torch warns on every node without IPv6; real errors stay in the log.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}

# The name of one job of an array; its number alone may stand for the whole array.
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

say() {
  echo "$(date '+%F %T') job $job: $1"
}

restarts=${SLURM_RESTART_COUNT:-0}
say "start $((restarts + 1)) on $SLURM_JOB_NODELIST, $SLURM_NTASKS processes: $*"

# When one process ends, the others have 60 s to end too. srun's exit code is the highest of theirs.
srun --wait=60 --kill-on-bad-exit=0 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python -m "$@"' rank "$@"
status=$?

case $status in
  0) say "finished" ;;
  # 75: the run received a signal to stop. 138, 140 and 143: so did a process that had not started Python yet, and
  # SIGUSR1, SIGUSR2 or SIGTERM ended it.
  75 | 138 | 140 | 143)
    if [ "$(squeue --noheader --format=%T --jobs="$job")" != RUNNING ]; then
      say "exit code $status: stopped as asked to; SLURM has already cancelled it or queued it again"
    elif [ "$restarts" -ge "${MAX_RESTARTS:-100}" ]; then
      say "exit code $status: stopped as asked to; not queued again after $restarts restarts (MAX_RESTARTS)"
    else
      say "exit code $status: stopped as asked to; it is queued again"
      scontrol requeue "$job"
    fi
    ;;
  137) say "exit code 137: a process was killed, for example because memory ran out; not queued again" ;;
  *) say "exit code $status: an error; not queued again" ;;
esac
exit "$status"
