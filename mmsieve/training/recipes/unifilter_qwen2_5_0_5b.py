"""unifilter-qwen2.5-0.5b: UniFilter on Qwen2.5-0.5B and SigLIP, as in the paper's Table 2.

Command:   mmsieve train projector unifilter-qwen2.5-0.5b --out projector
             --data blip_laion_cc_sbu_558k.json --images LLaVA-Pretrain
           mmsieve train classifier unifilter-qwen2.5-0.5b --out classifier
             --start-from projector --data train.json --val val.json --images images
           (on several GPUs: accelerate launch -m mmsieve train ...)
Hardware:  8 GPUs of 80 GB in the published scripts; any number here, total_batch stays
Time:      not measured here
Expected:  accuracy 94.8, macro F1 93.8 on the paper's own validation set (Table 2)
"""

from mmsieve.training.recipes._published import published, smoke

RECIPE = published(
    "unifilter-qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", "google/siglip-so400m-patch14-384"
)
SMOKE = smoke(RECIPE)
