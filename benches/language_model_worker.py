"""`python -m topk_ortho.train` with a clock on the language model and on the steps.

For `language_model.py`; takes the options of that command. Prints one line of JSON at the end:
seconds in the model and in training steps.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import json

from language_model_peers import Clock


def main() -> int:
    """Train one run; returns the exit code."""
    clock = Clock()
    from topk_ortho.activations.models import LanguageModel
    from topk_ortho.commands import train
    from topk_ortho.training import loop

    model, steps = vars(LanguageModel), vars(loop)
    LanguageModel.activations_at = clock.wrap("model", model["activations_at"])  # type: ignore[method-assign]
    loop.train_step = clock.wrap("training", steps["train_step"])
    code = train.run(sys.argv[1:], prog="topk-ortho train")
    print("@" + json.dumps(clock.seconds), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
