#!/bin/bash
# Scores a folder of shards as a job array: sbatch --array=0-63 slurm.sh
#
# Each part takes every 64th shard, and all write into one table. A part that dies is sent again as it
# was (sbatch --array=17 slurm.sh): whole shards are not done twice.
#SBATCH --job-name=mmsieve
#SBATCH --gpus=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=mmsieve-%a.log
set -euo pipefail
PARTS=${PARTS:-64}
mmsieve score "$DATA"/*.tar --model "${MODEL:-weizhiwang/UniFilter-Qwen3-0.6B}" \
    --part "$SLURM_ARRAY_TASK_ID/$PARTS" --out "$OUT/scores" --log-json
