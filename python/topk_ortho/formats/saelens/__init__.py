"""A trained SAE in the layout that SAELens 6 reads: `cfg.json` and `sae_weights.safetensors`.

`export` writes the folder in one step, `read` gives the weights and configuration back and refuses
a folder whose SAE computes something else than ours. `SAE.load_from_disk(folder)` loads it there.

Codes are the same on both sides:

| kind | architecture | codes, with `pre = (x - b_dec) @ W_enc + b_enc` |
|---|---|---|
| `topk` | `topk` | the k largest of `pre`, then relu |
| `relu` | `standard` | `relu(pre)` |
| `jumprelu`, `batch-topk`, `matryoshka` | `jumprelu` | `relu(pre) * (pre > threshold)`, strictly |

Transcoders, whose `pre` is `x @ W_enc + b_enc`, are `transcoder` and `jumprelu_transcoder` in place
of `standard` and `jumprelu`. `topk_transcoder` is this package's own: SAELens has none. Skip
connections are refused.

A feature whose `pre` equals its threshold is off, here and there. In float32 the weights are stored
bit for bit; a narrower dtype rounds thresholds and weights, so codes near a threshold may change.

What SAELens itself saves is read too, also the checkpoints of its training: decoder norms that it
multiplies `pre` by, and an encoder that does not take `b_dec` off, are folded into the weights.
"""

from topk_ortho.formats.saelens.layout import CONFIG, SAELENS_VERSION, WEIGHTS
from topk_ortho.formats.saelens.read import read, read_stored
from topk_ortho.formats.saelens.write import export, write_stored

__all__ = [
    "CONFIG",
    "SAELENS_VERSION",
    "WEIGHTS",
    "export",
    "read",
    "read_stored",
    "write_stored",
]
