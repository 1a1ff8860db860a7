"""The 14 capabilities a sample is rated for and the nine styles it can have (mmSSR, arXiv:2503.13383, released code)."""

from __future__ import annotations

#: Short name (column of tables, name in options) -> keyword asked of the model, in the order of the paper's list.
CAPABILITIES: dict[str, str] = {
    "spatial": "object spatial understanding",
    "attribute": "attribute identification",
    "logical": "logical deduction",
    "scene": "scene understanding",
    "finegrained": "fine-grained recognition",
    "language": "language generation",
    "incontext": "in-context learning",
    "comparative": "comparative analysis",
    "activity": "activity recognition",
    "causal": "causal reasoning",
    "humanities": "humanities",
    "stem": "stem knowledge",
    "data": "data understanding",
    "ocr": "optical character recognition",
}

#: The labels are part of the prompt and of every selection's groups: not a letter may change.
STYLES: tuple[str, ...] = (
    "multi-choice",
    "coordinate",
    "yes/no",
    "word/short-phrase",
    "short description",
    "detailed description",
    "comparison",
    "chain-of-thought (step-by-step)",
    "specified style",
)
