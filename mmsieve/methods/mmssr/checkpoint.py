"""LLaVA-OneVision-style folders that answer in text, read without importing torch.

The layout is that of the released mmSSR scorer and styler (github.com/lyumengyao/mmssr, LLaVA-NeXT
code): `config.json` is Qwen2's own plus `mm_*` keys, a two-layer projector, one newline embedding
after each image, and the vision tower among the weights.
"""

from dataclasses import replace
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.methods.configs import below, check_projector_sizes, check_text_sizes
from mmsieve.methods.mmssr.inputs import END, MARK, START, SYSTEM
from mmsieve.methods.recognise import open_published
from mmsieve.methods.stock import ChatLayout
from mmsieve.methods.tokenizer import check_tokenizer
from mmsieve.methods.tower import CheckpointFolder, Tower, check_config, find_inside

_LANGUAGE_MODEL = "qwen2"
_WANTED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}


class OneVision(CheckpointFolder):
    """A rater's folder, understood; its tower is without the last layer, whose input is used."""

    @property
    def image_tokens(self) -> int:
        """Embeddings that an image takes in the sequence: its patches and a newline."""
        return self.tower.patches + 1

    @property
    def max_sequence(self) -> int:
        """Longest sequence after images are spliced in."""
        return int(self.config.get("tokenizer_model_max_length", 32768))

    @property
    def repetition_penalty(self) -> float:
        """What the folder's generation_config.json asks for."""
        return float(self.generation.get("repetition_penalty", 1.0))


def open_onevision(folder: Path) -> OneVision:
    """Understand a rater's folder; raises RequestError where mmsieve can't rate with it."""
    known = open_published(folder, "mmssr")
    config, tensors = known.config, known.tensors
    if known.backbone != _LANGUAGE_MODEL:
        found = f"a {known.backbone} inside: mmSSR's is {_LANGUAGE_MODEL}"
        raise RequestError(f"{folder}: {known.note}: {found}")
    tied = bool(config.get("tie_word_embeddings", False))
    for name in ("model.image_newline", *([] if tied else ["lm_head.weight"])):
        if name not in tensors:
            raise RequestError(f"{folder}: no tensor `{name}`: it is not a LLaVA-OneVision model")
    check_config(folder, config, _WANTED)
    check_tokenizer(folder)
    file = folder / "config.json"
    places = {name: (at, name) for name, at in tensors.items()}
    check_text_sizes(file, config, below(places, "model."), cut=True)
    check_projector_sizes(file, config, below(places, "model.mm_projector."), "mm_hidden_size")
    tower = _used(folder, find_inside(folder, config, tensors))
    return OneVision(folder, config, tensors, tower, known.note)


def _used(folder: Path, tower: Tower) -> Tower:
    """The tower's tensors that are computed: of all layers but the last, which a copy may lack."""
    if tower.kind != "siglip":
        raise RequestError(f"{folder}: its vision tower is a {tower.kind}, not a siglip")
    used = tower.layers - 1
    numbered = (name for name in tower.tensors if name.startswith("encoder.layers."))
    layers = {name: int(name.split(".")[2]) for name in numbered}
    inside = set(layers.values())
    if not inside.issuperset(range(used)):
        found = f"{len(inside)} layers in the copy inside"
        raise RequestError(f"{folder}: its vision tower has {tower.layers} layers, but {found}")
    kept = {
        name: place
        for name, place in tower.tensors.items()
        if name.startswith("embeddings.") or layers.get(name, used) < used
    }
    return replace(tower, tensors=kept)


# As a chat

_IMAGE = f"{MARK}<image_newline>"
_TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nSYSTEM<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}
{{ part.text }}
{%- else -%}
{{ 'IMAGE\\n' }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

CHAT = ChatLayout(
    marks=(MARK, _IMAGE.removeprefix(MARK)),
    line_breaks=r"\A\n",
    template=_TEMPLATE.replace("SYSTEM", SYSTEM).replace("IMAGE", _IMAGE),
)
"""The published frame around turns; an image, a token whose embedding is the published image
newline, and a line break that is a token of its own."""


def chat_text(words: str) -> str:
    """What the template makes of a message, which has a mark where an image is to stand."""
    said = words.replace(MARK, f"{_IMAGE}\n")
    system = f"{START}system\n{SYSTEM}{END}\n"
    return f"{system}{START}user\n{said}{END}\n{START}assistant\n"
