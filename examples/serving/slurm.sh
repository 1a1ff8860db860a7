#!/bin/bash
#SBATCH --job-name=enhance
#SBATCH --nodes=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# Servers of one model, one per GPU, and a run that asks all of them. Submit it as it is after
#
#     mmsieve convert HymanH/AITQE --out "$DATA/aitqe-stock"
#
# A job that is killed or out of time goes on where it stopped when it is submitted again.
# vLLM and mmsieve have an environment each: $VLLM and $MMSIEVE are their folders.
set -euo pipefail

model=$DATA/aitqe-stock
name=aitqe
first_port=8000

servers=()
end_servers() {
    for server in "${servers[@]}"; do
        # shellcheck disable=SC2046 # the loop, and the server that it has started
        kill "$server" $(pgrep -P "$server") 2>/dev/null || true
    done
}
trap end_servers EXIT
urls=()
for gpu in 0 1 2 3; do
    port=$((first_port + gpu))
    # again where it dies: the run waits for it (--patience)
    while true; do
        CUDA_VISIBLE_DEVICES=$gpu "$VLLM/bin/vllm" serve "$model" --served-model-name "$name" \
            --host 127.0.0.1 --port "$port" --max-model-len 4096 || sleep 5
    done >"vllm-$SLURM_JOB_ID-$gpu.log" 2>&1 &
    servers+=($!)
    urls+=("http://127.0.0.1:$port/v1")
done

# A model of 7B takes minutes to load: all are there before the run begins.
for url in "${urls[@]}"; do
    until curl --silent --fail --output /dev/null "${url%/v1}/health"; do
        sleep 5
    done
done

export PATH=$MMSIEVE/bin:$PATH
endpoint=$(IFS=,; echo "${urls[*]}")
mmsieve enhance "$DATA"/cc3m/*.tar --model "endpoint:$endpoint#$name" --like HymanH/AITQE \
    --concurrency 256 --workers 16 --patience 1h --rewrite-below 7 --out "$OUT/judged"
