newest_checkpoint() { local all=("$run"/checkpoints/step-????????); basename "${all[-1]}"; }
stuck() {  # two restarts of this job began where the run still stands
    awk -v job="$job" -v at="$(newest_checkpoint)" \
        '$1 == job && $2 > 0 && $4 == at { starts++ } END { exit !(starts >= 2) }' "$run.starts"
}
give_up() { echo "no progress in two restarts: not queued again" >&2; exit 1; }

restart=${SLURM_RESTART_COUNT:-0}
mkdir -p "$(dirname "$run")" && touch "$run.starts" || exit 1
echo "run directory: $(realpath -m "$run"); job $job, restart $restart, on $SLURM_JOB_NODELIST"
stuck && give_up
echo "$job $restart $(date +%s) $(newest_checkpoint)" >> "$run.starts"
before=$(cat "$run/status.json" 2> /dev/null)

# USR1 comes to this shell before the time limit, and goes on to the workers: again every 5 s, for a worker that is
# still starting ignores it. torchrun must not see USR1 (it would die) or TERM, which preemption sends to all
# processes of the step (it would give the workers 30 s to save). CONT, which Slurm sends along, is not trapped.
child='' signalled=''
# shellcheck disable=SC2329
forward() {
    [ -n "$child" ] && [ -z "$signalled" ] || return
    signalled=yes
    echo "USR1: telling the workers to save"
    while kill -USR1 "$child" 2> /dev/null; do sleep 5; done &
}
trap forward USR1
trap : TERM

# SLURM_EXPORT_ENV would strip the step's environment, and srun does not inherit --cpus-per-task: both are said.
# shellcheck disable=SC2016
srun --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --wait=600 \
    bash -c 'trap "" USR1 TERM; export PET_NODE_RANK=$SLURM_NODEID; exec "$@"' step "${program[@]}" "${command[@]}" &
child=$!
while kill -0 "$child" 2> /dev/null; do wait "$child"; done
wait "$child"
code=$?

# Exit codes of workers do not pass torchrun: what counts is the marker that this start has written.
state=$(sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$run/status.json" 2> /dev/null | head -n 1)
if [ "$state" = stopped ] && [ "$(cat "$run/status.json")" != "$before" ]; then
    stuck && give_up
    # A job that was cancelled has stopped as well, and must stay so.
    if scontrol -o show job "$job" | grep -q JobState=RUNNING; then
        echo "saved and stopped: queued again"
        if scontrol requeue "$job"; then
            sleep 60  # until Slurm ends this script
            exit 1
        fi
    fi
    echo "saved and stopped: submit this script again to go on" >&2
    exit 1
fi
exit "$code"
