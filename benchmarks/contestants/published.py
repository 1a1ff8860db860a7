"""The published caption scorer's own loop, in its own environment, on a CPU in float32.

Arguments: REPOSITORY (a checkout of github.com/Victorwz/UniFilter at 27d0893), CHECKPOINT, TAR.
Its environment: transformers 4.52.4, tokenizers 0.21.4, webdataset, einops, accelerate, pandas.
The class, the collator, the batch size (4, as its README asks) and the data pipeline are those of
the script; only what can't run on a CPU (fp16, flash attention, CUDA calls) is left out.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
import webdataset as wds
from protocol import serve

BATCH, WORKERS = 4, 4


def main(repository: str, checkpoint: str, tar: str) -> None:
    """Load the model as the script does, then score the shard whenever asked."""
    sys.path.insert(0, f"{repository}/LLaVA")
    script = Path(repository, "data_scoring", "data_quality_classifier_caption_scoring.py")
    spec = importlib.util.spec_from_file_location("published", script)
    published = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(published)
    from llava.model import LlavaQwen3Classifier

    os.chdir(Path(checkpoint).parent)  # `mm_vision_tower` is relative
    tokenizer = published.AutoTokenizer.from_pretrained(checkpoint)
    model = LlavaQwen3Classifier.from_pretrained(
        checkpoint, torch_dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        tower.load_model()
    tokenizer.padding_side = model.config.tokenizer_padding_side = "right"
    collator = published.DataCollatorForImagePreprocessing(tokenizer, tower.image_processor, 75)

    def score_all() -> dict[str, float]:
        scores = {}
        for images, ids, mask, infos in _batches(tar, collator):
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask, images=images).logits
            for info, score in zip(infos, logits.view(-1).tolist(), strict=True):
                scores[info["key"]] = score
        return scores

    serve(score_all)


def _batches(tar: str, collator: object) -> wds.WebLoader:
    dataset = wds.DataPipeline(
        wds.SimpleShardList(tar),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.decode("pilrgb", handler=wds.warn_and_continue),
        wds.rename(image="jpg;png;jpeg;webp", text="txt", json="json"),
        wds.to_tuple("image", "text", "json"),
        wds.batched(BATCH, partial=True),
    )
    return wds.WebLoader(dataset, collate_fn=collator, batch_size=None, num_workers=WORKERS)


if __name__ == "__main__":
    main(*sys.argv[1:])
