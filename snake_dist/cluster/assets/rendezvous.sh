MASTER_ADDR=$(scontrol -o show node "$SLURMD_NODENAME" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
MASTER_PORT=$("${python[@]}" -c '
import socket, sys
for i in range(100):
    port = 20000 + (int(sys.argv[1]) + 101 * i) % 10000
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            continue
    print(port)
    break
else:
    sys.exit("no free port from 20000 to 29999")
' "$SLURM_JOB_ID") || exit 1
program=(
    "${python[@]}" -m torch.distributed.run --nnodes="$nodes" --nproc-per-node="$ranks_per_node"
    --rdzv-backend=static --master-addr="$MASTER_ADDR" --master-port="$MASTER_PORT"
    --max-restarts=0 --signals-to-handle=SIGINT
)
