"""predictions.parquet: what each model said of each text, so that errors can be looked at."""

import numpy as np
import polars as pl

from mmsieve.evaluation.comparing import Comparison
from mmsieve.evaluation.scoring import Scored, Texts
from mmsieve.metrics import predict


def predictions(texts: Texts, comparison: Comparison) -> pl.DataFrame:
    """A row per text, in the file's order.

    Columns: key (the entry's id, or its number), kind, image, text, label, measured; and `status`,
    `score`, `level`, with several models each as `NAME.status`, `NAME.score`, `NAME.level`.
    """
    records = texts.records
    keys = [str(i if record.id is None else record.id) for i, record in enumerate(records)]
    columns = [
        pl.Series("key", keys, pl.String),
        pl.Series("kind", texts.kinds, pl.String),
        pl.Series("image", [record.images for record in records], pl.List(pl.String)),
        pl.Series("text", [record.text for record in records], pl.String),
        pl.Series("label", texts.levels, pl.Int8),
        pl.Series("measured", comparison.is_measured),
    ]
    for name, one in comparison.scored.items():
        prefix = f"{name}." if len(comparison.scored) > 1 else ""
        columns += [column.alias(prefix + column.name) for column in _outcome(one)]
    return pl.DataFrame(columns)


def _outcome(one: Scored) -> list[pl.Series]:
    score = pl.Series("score", one.scores, pl.Float64).fill_nan(None).cast(pl.Float32)
    level = pl.Series("level", [None] * len(score), pl.Int8)
    if one.is_level or one.thresholds is not None:
        found = predict(np.nan_to_num(one.scores), one.thresholds)
        level = pl.Series("level", found, pl.Int8).set(score.is_null(), None)
    return [pl.Series("status", one.statuses, pl.String), score, level]
