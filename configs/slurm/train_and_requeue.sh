# Train in as many jobs as needed; sourced by the job scripts in this folder.
#
# Some minutes before the time limit (`--signal`) SLURM sends USR1 to this shell, which forwards it. The training saves
# a checkpoint at the end of its step and stops, the job goes back into the queue, and its next run continues exactly.
# A job that SLURM itself preempts or that loses a node is requeued too, and repeats the steps since its last save.
#
#   ACCELERATE_CONFIG   accelerate config (default: DDP)
#   PYTHON              interpreter of the environment (default: .venv/bin/python)
set -uo pipefail

export ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-configs/accelerate/multi_gpu_ddp.yaml}
export PYTHON=${PYTHON:-.venv/bin/python}
MAIN_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_NODE MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000))
stopping=

stop_and_requeue() {
    stopping=yes
    scancel --signal=USR1 "$SLURM_JOB_ID" # every process of the step, on all nodes; not this shell
    # If the step or its save takes too long, requeue before the job ends
    local end left
    end=$(date --date "$(squeue --noheader --job "$SLURM_JOB_ID" --format %e)" +%s)
    left=$((end - $(date +%s) - 15))
    { sleep $((left > 0 ? left : 0)) && scontrol requeue "$SLURM_JOB_ID"; } &
}
trap stop_and_requeue USR1
trap 'kill $(jobs -p) 2>/dev/null' EXIT

# USR1 would end the launchers, so they ignore it; the training handles it
srun --kill-on-bad-exit bash -c '
    trap "" USR1
    exec "$PYTHON" -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG" \
        --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1})) \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_NODE" --main_process_port "$MAIN_PORT" \
        --module theworld.cli.main train --resume_from auto "$@"' launch "$@" &
training=$!
wait "$training" # returns early for a signal
status=$?
while kill -0 "$training" 2>/dev/null; do
    wait "$training"
    status=$?
done
if [[ $stopping && $status != 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # wait until SLURM ends this run
fi
exit "$status"
