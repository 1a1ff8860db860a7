"""The 14 capabilities a sample is rated for, and the nine styles it can have.

Labels are those of the released mmSSR code (arXiv 2503.13383): they are part of its prompts.
"""

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
"""Short name (a table's column, an option) -> keyword asked of the model, in the paper's order."""

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
"""Selections group by them too: not a letter may change."""
