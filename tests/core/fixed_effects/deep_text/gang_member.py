"""One member of a gang, in a process of its own: `python gang_member.py RANK ADDRESSES DIRECTORY`.

Prints a JSON document a line: every report of the chief, every notice, and how it ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from conftest import Context, make_world

from gdmix_core.errors import Unavailable
from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions
from gdmix_core.fixed_effects.deep_text.evaluation import auc
from gdmix_core.fixed_effects.plugin import FitData, FitProgress, Gang

OPTIONS: dict[str, Any] = {
    "text": ["title"],
    "categories": ["color"],
    "encoder": {"kind": "cnn", "filters": 8, "windows": [1]},
    "word_embedding": {"size": 8},
    "hidden": [8],
    "batch_size": 128,
    "optimizer": {"learning_rate": 0.03},
    "steps": 160,
    "early_stopping": {"every_steps": 20, "patience": 100},
    "checkpoint_steps": 20,
    "workers": 2,
}


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def fit_and_measure(gang: Gang, directory: Path) -> tuple[float, Context]:
    shards = make_world(3000).shards([700, 900, 800, 600])
    for part in ("checkpoints", "logs"):
        (directory / part).mkdir(parents=True, exist_ok=True)

    def report(progress: FitProgress) -> None:
        say(step=progress.step)

    context = Context(directory / "checkpoints", directory / "logs", gang=gang, on_report=report)
    model = DeepText().fit(DeepTextOptions.model_validate(OPTIONS), FitData(shards[:3], []), context)
    rows = shards[3].read()
    return auc(model.score(rows.columns) + rows.offset, rows.label, np.ones(len(rows))), context


if __name__ == "__main__":
    rank, addresses, directory = int(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3])
    try:
        found, context = fit_and_measure(Gang(rank, addresses), directory)
    except Unavailable as error:
        say(unavailable=str(error))
        # As a member's process ends: TensorFlow would wait for the lost one.
        os._exit(3)
    say(auc=found, notices=context.notices)
