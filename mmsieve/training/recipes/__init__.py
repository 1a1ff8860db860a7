"""The recipes in the package at the published sizes, a file per method."""

from collections.abc import Mapping
from typing import Any

PUBLISHED: Mapping[str, Any] = {
    "warmup": 0.03,
    "weight_decay": 0,
    "beta2": 0.999,
    "precision": "bfloat16",
    "gradient_checkpointing": True,
}
"""What the published scripts of UniFilter and of mmSSR have in common."""
