"""How much memory a training takes per process, from its recipe and tensors' headers.

Weights are float32 masters; what learns has a gradient and AdamW's two moments beside it. For the
backward pass each layer keeps what its products and norms need (as counted by Korthikanti et al.,
arXiv 2205.05198, here for the stock layers), or its input alone where activations are computed
twice. Sharding (FSDP, ZeRO) divides what it shards by the number of processes.
"""

from dataclasses import dataclass
from pathlib import Path

from mmsieve.devices import Memory, resolve_device
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.configs import below
from mmsieve.methods.folders import bundled_folder, read_json, stored_tensors, tensor_files
from mmsieve.methods.memory import LanguageSizes, count_numbers, tower_numbers
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.tower import CheckpointFolder, Tower, open_tower
from mmsieve.methods.unifilter.checkpoint import open_checkpoint
from mmsieve.training.recipe import (
    AnyStage,
    Architecture,
    Backbone,
    BaseRecipe,
    ClassifierStage,
    Pretrained,
    RaterRecipe,
    Recipe,
    SftStage,
    WeightTransfer,
)
from mmsieve.wording import counted

TEXT_TOKENS = 128
"""Of a usual caption."""
_TEXTS = 4
"""Of a group: one of each level over the same images."""
_CONVERSATION, _ANSWERS = 500, 64
"""Tokens of a usual instruction sample with its questions and answers; those that are learnt."""
_PROMPTS, _REWRITES = 700, 320
"""Tokens of a usual caption pair's prompts and judgements; those that are learnt."""


@dataclass(frozen=True, kw_only=True)
class StartSizes:
    """The sizes of what is trained."""

    sizes: LanguageSizes
    numbers: int
    """Of all weights."""
    tower: int
    """Of the vision tower's."""
    width: int
    """Of the tower."""
    encoding: int
    """Most numbers that are there while one image goes through the tower."""
    image_tokens: int


def estimate_training(
    goal: str, recipe: BaseRecipe, stage: AnyStage, start_from: Path | None
) -> Memory | None:
    """The memory of the stage that `train GOAL` ends with; None where the sizes aren't known."""
    start = _find_start(recipe, start_from)
    if start is None:
        return None
    sizes, is_short = start.sizes, stage.precision == "bfloat16"
    rows, length, learnt, about = _batch(goal, stage, start.image_tokens)
    tokens = rows * length
    learning = _learning(goal, stage, start)
    kept = _kept_bytes(sizes, is_short, goal)
    layers = sizes.layers * tokens * kept
    if stage.gradient_checkpointing:
        layers = sizes.layers * tokens * sizes.hidden * 4 + tokens * kept
    item = 2 if is_short else 4
    backward = tokens * 3 * sizes.intermediate * item
    logits = 3 * learnt * sizes.vocabulary * 4
    weights = 4 * start.numbers + (2 * sizes.numbers if is_short else 0)
    encoding, learning_from = stage.batch * start.encoding * item, layers + backward + logits
    learns_tower = isinstance(stage, ClassifierStage | SftStage) and bool(stage.tower_rate)
    # a tower that does not learn keeps nothing for the backward pass
    activations = encoding + learning_from if learns_tower else max(encoding, learning_from)
    parts = {
        "weights": weights,
        "gradients": 4 * learning,
        "optimiser": 8 * learning,
        "activations": activations,
    }
    device = resolve_device()
    return Memory(device=device, dtype="float32", parts=parts, about=f"for {about} in a process")


def _batch(goal: str, stage: AnyStage, image_tokens: int) -> tuple[int, int, int, str]:
    """Rows of a step, their length, tokens whose logits are computed, and all of it in words."""
    if goal == "rater":
        found = stage.batch, image_tokens + _CONVERSATION, stage.batch * _ANSWERS
        return *found, f"{counted(stage.batch, 'samples')} of {_CONVERSATION:,} tokens and an image"
    if goal == "enhancer":
        found = stage.batch, image_tokens + _PROMPTS, stage.batch * _REWRITES
        return *found, f"{counted(stage.batch, 'samples')} of {_PROMPTS:,} tokens and an image"
    texts = 1 if goal == "projector" else _TEXTS
    rows = stage.batch * texts
    captioning = isinstance(stage, ClassifierStage) and stage.captioning
    learnt = stage.batch * TEXT_TOKENS if captioning or goal == "projector" else 0
    each = f"{counted(texts, 'texts')} of {TEXT_TOKENS} tokens each"
    about = f"{counted(stage.batch, 'images')} with {each}"
    return rows, image_tokens + TEXT_TOKENS, learnt, about


def _learning(goal: str, stage: AnyStage, start: StartSizes) -> int:
    """How many numbers learn."""
    sizes = start.sizes
    projector = sizes.hidden * (start.width + sizes.hidden)
    lora = stage.lora if isinstance(stage, ClassifierStage | SftStage) else None
    if goal == "projector":
        return projector
    tower = start.tower if isinstance(stage, ClassifierStage | SftStage) and stage.tower_rate else 0
    if lora is not None:
        around = 5 * sizes.hidden + 2 * sizes.heads + 2 * sizes.keys + 3 * sizes.intermediate
        return tower + projector + sizes.layers * lora.rank * (around + 2 * sizes.hidden)
    return start.numbers - start.tower + tower


def _kept_bytes(sizes: LanguageSizes, is_short: bool, goal: str) -> int:
    """What a layer keeps of a token for its backward pass."""
    norms = 2 * sizes.hidden * (10 if is_short else 12)
    repeated = sizes.heads if goal in ("rater", "enhancer") else sizes.keys  # under a mask: for all
    attention = 3 * sizes.heads + 2 * repeated
    attention += 2 * (sizes.heads + sizes.keys) if sizes.has_key_norms else 0
    return norms + (attention + 4 * sizes.intermediate) * (2 if is_short else 4)


# What is trained, by where its weights come from


def _find_start(recipe: BaseRecipe, start_from: Path | None) -> StartSizes | None:
    if start_from is not None:
        return _of_checkpoint(_open(recipe, start_from))
    start = recipe.start
    if isinstance(start, Pretrained | Backbone):
        return _of_backbone(start)
    if isinstance(start, WeightTransfer):
        folder = bundled_folder(start.model)
        return None if folder is None else _of_checkpoint(open_checkpoint(folder))
    return _of_architecture(start) if isinstance(start, Architecture) else None


def _open(recipe: BaseRecipe, folder: Path) -> CheckpointFolder:
    if isinstance(recipe, Recipe):
        return open_checkpoint(folder)
    return open_onevision(folder) if isinstance(recipe, RaterRecipe) else open_enhancer(folder)


def _of_checkpoint(checkpoint: CheckpointFolder) -> StartSizes:
    numbers = count_numbers(stored_tensors(checkpoint.used).values())
    sizes = LanguageSizes.of(checkpoint)
    return _start(sizes, numbers, checkpoint.tower, checkpoint.image_tokens)


def _start(sizes: LanguageSizes, numbers: int, tower: Tower, image_tokens: int) -> StartSizes:
    own = {name: at for name, at in tower.tensors.items() if not name.startswith("head.")}
    return StartSizes(
        sizes=sizes,
        numbers=numbers,
        tower=count_numbers(stored_tensors(own).values()),
        width=int(tower.config["hidden_size"]),
        encoding=tower_numbers(tower, 1),
        image_tokens=image_tokens,
    )


def _of_backbone(start: Pretrained | Backbone) -> StartSizes:
    """Of a language model and a tower in folders of their own, with a new projector."""
    from mmsieve.training.initial import backbone_folder  # as the check of the request does

    language = backbone_folder(start.language_model)
    tower = open_tower(backbone_folder(start.vision_tower))
    places = {name: (file, name) for name, file in tensor_files(language).items()}
    if isinstance(start, Pretrained):  # the scoring head takes the place of the other
        places.pop("lm_head.weight", None)
    config = read_json(language / "config.json")
    sizes = LanguageSizes.of_tensors(
        stored_tensors(below(places, "model.")),
        int(config.get("num_attention_heads", 1)),
        str(config.get("model_type")),
    )
    projector = sizes.hidden * (int(tower.config["hidden_size"]) + sizes.hidden)
    pooled = start.image_tokens if isinstance(start, Pretrained) else None
    found = _start(sizes, 0, tower, pooled or tower.patches)
    numbers = count_numbers(stored_tensors(places).values()) + projector + found.tower
    return StartSizes(**{**vars(found), "numbers": numbers})


def _of_architecture(start: Architecture) -> StartSizes:
    """Of random weights: the tower is as wide and as deep as the language model."""
    hidden, layers = start.hidden, start.layers
    patches = (start.image_size // start.patch_size) ** 2
    sizes = LanguageSizes(
        hidden=hidden,
        intermediate=start.intermediate,
        layers=layers,
        heads=hidden,
        keys=hidden,
        attention_heads=start.heads,
        vocabulary=start.vocabulary,
        has_scores=False,
        has_key_norms=True,
    )
    tower = layers * hidden * (4 * hidden + 2 * start.intermediate)
    tower += hidden * (3 * start.patch_size**2 + patches)
    return StartSizes(
        sizes=sizes,
        numbers=sizes.numbers + sizes.vocabulary * hidden + 2 * hidden * hidden + tower,
        tower=tower,
        width=hidden,
        encoding=patches * max(7 * hidden, 3 * hidden + 2 * start.intermediate),
        image_tokens=start.image_tokens or patches,
    )
