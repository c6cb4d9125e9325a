"""Language models with named hook points, by two backends of the same numbers.

`forward_hooks.py` hooks a model of the package transformers where it is known which of its modules
are which hook point (`layouts.py`); `lens.py` is the bridge of transformer_lens, which takes
seconds to import and knows every hook point. `loading.py` chooses.
"""

from topk_ortho.activations.models.model import LanguageModel

__all__ = ["LanguageModel"]
