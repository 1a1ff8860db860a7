"""unifilter-qwen2.5-1.5b: UniFilter on Qwen2.5-1.5B and SigLIP, the paper's best.

Command:   mmsieve train projector unifilter-qwen2.5-1.5b --out projector
             --data blip_laion_cc_sbu_558k.json --images LLaVA-Pretrain
           mmsieve train classifier unifilter-qwen2.5-1.5b --out classifier
             --start-from projector --data train.json --val val.json --images images
           (on several GPUs: accelerate launch -m mmsieve train ...)
Hardware:  8 GPUs of 80 GB in the published scripts; any number here, total_batch stays
Time:      not measured here
Expected:  accuracy 95.2, macro F1 94.3 on the paper's own validation set (Table 2)
"""

from mmsieve.training.recipes._published import published, smoke

RECIPE = published(
    "unifilter-qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "google/siglip-so400m-patch14-384"
)
SMOKE = smoke(RECIPE)
