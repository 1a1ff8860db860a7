#!/bin/bash
# A Ray cluster over a Slurm allocation, and a run in it: sbatch --nodes=4 ray_cluster.sh
#SBATCH --job-name=mmsieve-ray
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
set -euo pipefail
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" ray start --head --port=6379 --block &
sleep 20
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --overlap --exclude="$HEAD" --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) \
        ray start --address="$HEAD:6379" --block &
fi
sleep 20
srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
    mmsieve score "$DATA"/*.tar --model "${MODEL:-weizhiwang/UniFilter-Qwen3-0.6B}" \
    --engine ray --ray-address "$HEAD:6379" --out "$OUT/scores"
