# shellcheck disable=SC2016
srun --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 \
    bash -c 'export PET_NODE_RANK=$SLURM_NODEID; exec "$@"' step "${program[@]}" "${command[@]}"
