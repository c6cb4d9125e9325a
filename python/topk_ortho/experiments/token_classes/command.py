"""`topk-ortho absorption`: measure, write the JSON, and the text to print."""

from __future__ import annotations

import json

from topk_ortho.config import ConfigError
from topk_ortho.experiments.token_classes.measure import measure
from topk_ortho.experiments.token_classes.options import AbsorptionOptions
from topk_ortho.experiments.token_classes.text import as_text


def run_absorption(options: AbsorptionOptions) -> str:
    """What to print.

    Raises:
        ConfigError: an option, file, model or SAE that cannot be used.
    """
    if options.out is not None and not options.out.parent.is_dir():
        raise ConfigError(
            f"--out {options.out} was given, but there is no folder {options.out.parent}; make it."
        )
    found = measure(options)
    text = json.dumps(found.as_json(), indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return text if options.json else as_text(found)
