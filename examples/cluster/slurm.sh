#!/bin/bash
# A run on the GPUs of one node, or of several:
#     sbatch --job-name=my-task examples/cluster/slurm.sh my-task/task.toml
# Submitted again under the same name, or requeued, it goes on where it stopped. Task and runs/ lie on a disk
# that all nodes see.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

run=runs/$SLURM_JOB_NAME
work=("$1" --set "name=$SLURM_JOB_NAME")  # torchrun takes --run for a flag of its own
if [[ -f $run/config.toml ]]; then work=(--resume "$run"); fi

srun torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
  --rdzv-endpoint="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500" \
  -m refine_rl train "${work[@]}"
