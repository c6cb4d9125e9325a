"""`topk-ortho absorption`: measure, write the JSON, and the text to print."""

from __future__ import annotations

import json

from topk_ortho.inspect.absorption.measure import measure
from topk_ortho.inspect.absorption.options import AbsorptionOptions
from topk_ortho.inspect.absorption.text import as_text
from topk_ortho.inspect.evaluate.command import check_out, write


def run_absorption(options: AbsorptionOptions) -> str:
    """What to print.

    Raises:
        ConfigError: an option, file, model or SAE that cannot be used.
    """
    check_out(options.out)
    found = measure(options)
    record = found.as_json()
    if options.out is not None:
        write(options.out, record)
    return json.dumps(record, indent=2) if options.json else as_text(found)
