"""unifilter-qwen3-0.6b: UniFilter on Qwen3-0.6B and SigLIP 2, as in the newer release.

Command:   mmsieve train projector unifilter-qwen3-0.6b --out projector
             --data blip_laion_cc_sbu_558k.json --images LLaVA-Pretrain
           mmsieve train classifier unifilter-qwen3-0.6b --out classifier
             --start-from projector --data train.json --val val.json --images images
           (on several GPUs: accelerate launch -m mmsieve train ...)
Hardware:  8 GPUs of 80 GB in the published scripts; any number here, total_batch stays
Time:      not measured here
Expected:  no number was published
"""

from mmsieve.training.recipes._published import published, smoke

RECIPE = published("unifilter-qwen3-0.6b", "Qwen/Qwen3-0.6B", "google/siglip2-so400m-patch14-384")
SMOKE = smoke(RECIPE)
