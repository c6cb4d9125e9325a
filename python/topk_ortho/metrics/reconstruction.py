"""Metrics of reconstruction and sparsity, over any number of batches.

`Reconstruction` keeps float64 sums, so that batches of any size give the metrics of one pass over
the whole evaluation set; memory is `d_in + d_sae` numbers, a tile of 16 MB and the loudest rows
(`loud_rows.py`). `decoder_geometry` costs one product of the decoder with itself, in tiles. Neither
changes what it is given. Values that are not finite are refused, since a NaN among sums hides where
it came from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topk_ortho.config import ConfigError
from topk_ortho.metrics.loud_rows import Moments, QuietRows, norms
from topk_ortho.sparse.scale import at_safe_scale

DENSE_FREQUENCY = 0.1
"""A feature that fires on more than this share of the rows counts as dense."""

_TILE_ELEMENTS = 2**21  # 16 MB of float64
_COSINE_TILE = 2048  # a side; 2048^2 float32 cosines are 16 MB


class Reconstruction:
    """Sums over the evaluation set; `result` may be read at any time.

    Attributes:
        fired: `[d_sae]` int64 on CPU, on how many rows each feature fired (was above 0).
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.d_in, self.d_sae = d_in, d_sae
        self.fired = torch.zeros(d_sae, dtype=torch.int64)
        self._moments = Moments(d_in)
        self._quiet = QuietRows(d_in)
        self._error = 0.0
        self._l1 = 0.0
        self._directed_rows = 0  # rows of x that have a direction (are not 0)
        self._cosine = 0.0
        self._ratio = 0.0
        self._power = 0.0  # sum of |x_hat|^2
        self._dot = 0.0  # sum of <x, x_hat>

    @property
    def rows(self) -> int:
        """Rows seen so far."""
        return self._moments.rows

    @property
    def frequency(self) -> Tensor:
        """Returns `[d_sae]` float64, the share of rows on which each feature fired, at first 0."""
        return self.fired.double() / max(self.rows, 1)

    @torch.no_grad()
    def update(self, x: Tensor, x_hat: Tensor, acts: Tensor) -> None:
        """Take in one batch.

        Args:
            x: `[rows, d_in]`, the activations.
            x_hat: `[rows, d_in]`, their reconstruction.
            acts: `[rows, d_sae]`, the codes, non-negative.

        Raises:
            ValueError: a shape that does not fit, or a value that is not finite; nothing of the
                batch is counted then.
        """
        expected = {
            "x": (len(x), self.d_in),
            "x_hat": (len(x), self.d_in),
            "acts": (len(x), self.d_sae),
        }
        for name, tensor in (("x", x), ("x_hat", x_hat), ("acts", acts)):
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {expected[name]}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} holds a value that is not finite; it cannot be measured")
        tile = max(1, _TILE_ELEMENTS // max(self.d_in, self.d_sae))
        for start in range(0, len(x), tile):
            rows = slice(start, start + tile)
            self._add_rows(x[rows].double(), x_hat[rows].double(), acts[rows])
            self._add_codes(acts[rows])

    def _add_rows(self, x: Tensor, x_hat: Tensor, acts: Tensor) -> None:
        squared = (x - x_hat).square()
        self._error += squared.sum().item()
        self._moments.add(x)
        sums = acts.sum(1, dtype=torch.float64)
        self._quiet.add(x, squared.sum(1), sums, norms(acts).square())
        norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
        directed = norm > 0
        dot = (x * x_hat).sum(1)
        self._power += norm_hat.square().sum().item()
        self._dot += dot.sum().item()
        norm, norm_hat, dot = norm[directed], norm_hat[directed], dot[directed]
        product = norm * norm_hat
        cosine = torch.where(product > 0, dot / product.clamp(min=torch.finfo(x.dtype).tiny), 0.0)
        self._directed_rows += len(norm)
        self._cosine += cosine.sum().item()
        self._ratio += (norm_hat / norm).sum().item()

    def _add_codes(self, acts: Tensor) -> None:
        self.fired += (acts > 0).sum(0).cpu()
        self._l1 += acts.abs().sum(dtype=torch.float64).item()

    def result(self) -> dict[str, float | int | None]:
        """Returns the metrics over all rows so far; None where one is not defined.

        Keys: `rows`; `mse` (per dimension); `l2` (squared error summed over `d_in`, mean over
        rows); `explained_variance` (against the mean of all rows; None where they are all equal);
        `cosine_similarity` and `l2_ratio` (`|x_hat| / |x|`), means over the rows of x that are not
        0; `relative_reconstruction_bias` (`E |x_hat|^2 / E <x, x_hat>`, arXiv 2404.16014 equation
        10: below 1 the SAE shrinks); `explained_variance_quiet_rows`, `variance_share_top_rows`,
        `score_share_top_rows` (`QuietRows.result`); `l0`, `l1` (means over rows); `dead_features`
        (share that never fired); `alive` (count); `dense_features` (share that fired on more than
        `DENSE_FREQUENCY` of the rows).

        Raises:
            ConfigError: no row was seen.
        """
        if self.rows == 0:
            raise ConfigError(
                "the evaluation set has 0 rows, expected at least 1; raise eval_samples or give "
                "more data"
            )
        alive = int((self.fired > 0).sum())
        directed = self._directed_rows
        return {
            "rows": self.rows,
            "mse": self._error / self.rows / self.d_in,
            "l2": self._error / self.rows,
            "explained_variance": (
                1 - self._error / self._moments.scatter if self._moments.varied() else None
            ),
            **self._quiet.result(self._moments),
            "cosine_similarity": self._cosine / directed if directed else None,
            "l2_ratio": self._ratio / directed if directed else None,
            "relative_reconstruction_bias": self._power / self._dot if self._dot else None,
            "l0": self.fired.sum().item() / self.rows,
            "l1": self._l1 / self.rows,
            "dead_features": 1 - alive / self.d_sae,
            "alive": alive,
            "dense_features": (self.frequency > DENSE_FREQUENCY).double().mean().item(),
        }


def frequency_histogram(fired: Tensor, rows: int) -> dict[str, list[float] | list[int] | int]:
    """Returns a histogram of firing frequencies.

    Args:
        fired: `[d_sae]`, on how many of the rows each feature fired.
        rows: rows seen, at least 1.

    Returns:
        `log10_edges`, half a decade apart from the rarest that `rows` can show to 0; `features`,
        the number whose log10 frequency is at or above an edge and below the next one (the last
        bin has 0, every row, as well); `never`, the number that did not fire at all.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}, expected at least 1 to speak of frequencies")
    lowest = math.floor(-2 * math.log10(rows)) if rows > 1 else -1
    frequency = fired.double()[fired > 0] / rows
    index = (2 * frequency.log10()).floor().clamp(lowest, -1) - lowest
    counts = torch.bincount(index.long(), minlength=-lowest)
    return {
        "log10_edges": [half / 2 for half in range(lowest, 1)],
        "features": counts.tolist(),
        "never": int((fired == 0).sum()),
    }


@torch.no_grad()
def decoder_geometry(W_dec: Tensor, *, sample: int | None = None) -> dict[str, float | None]:
    """Returns how much decoder rows overlap.

    Args:
        W_dec: `[d_sae, d_in]`; rows need not be unit vectors, a row of zeros has cosine 0.
        sample: measure so many features, evenly spaced, against all others, which costs
            `sample * d_sae * d_in` in place of `d_sae² * d_in`; all features when None.

    Returns:
        `c_dec`, the mean of `|cos|` over all pairs, and `mean_max_cos`, the mean over features of
        the largest cosine with another feature; both None with fewer than two features.
    """
    d_sae = len(W_dec)
    if sample is not None and sample < 1:
        raise ValueError(f"sample is {sample}, expected at least 1 feature or None for all")
    if d_sae < 2:
        return {"c_dec": None, "mean_max_cos": None}
    unit = torch.nn.functional.normalize(at_safe_scale(W_dec.float())[0], dim=1)
    count = d_sae if sample is None else min(sample, d_sae)
    chosen = torch.arange(count, device=unit.device) * d_sae // count
    absolute = torch.zeros((), dtype=torch.float64, device=unit.device)
    largest = torch.full((count,), -math.inf, device=unit.device)
    for start in range(0, count, _COSINE_TILE):
        index = chosen[start : start + _COSINE_TILE]
        for first in range(0, d_sae, _COSINE_TILE):
            columns = unit[first : first + _COSINE_TILE]
            cosine = unit[index] @ columns.T
            itself = index[:, None] == torch.arange(first, first + len(columns), device=unit.device)
            best = largest[start : start + len(index)]
            torch.maximum(best, cosine.masked_fill_(itself, -math.inf).amax(1), out=best)
            absolute += cosine.masked_fill_(itself, 0.0).abs_().sum(dtype=torch.float64)
    return {
        "c_dec": absolute.item() / count / (d_sae - 1),
        "mean_max_cos": largest.double().mean().item(),
    }
