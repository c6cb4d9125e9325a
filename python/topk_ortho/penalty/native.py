"""The Rust side of the penalty: cosines of pairs of decoder rows and their gradient, on CPU.

Rows are taken as they are, of any norm, so that no normalised copy of the decoder is made; each row
of the gradient is owned by one thread, so that the bits do not depend on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topk_ortho import _core


def takes(W_dec: Tensor) -> bool:
    """Whether Rust can work on these rows: float32 on CPU, row after row."""
    return W_dec.device.type == "cpu" and W_dec.dtype == torch.float32 and W_dec.is_contiguous()


class NativePairCosine(torch.autograd.Function):
    """`cos[p]` of rows `i[p]` and `j[p]` of `W_dec` `[d_sae, d_in]`, 0 where a row is zero.

    `moves_i`, `moves_j` (`[k]` bool) say which of the two rows receives the gradient.
    """

    @staticmethod
    def forward(ctx, W_dec: Tensor, i: Tensor, j: Tensor, moves_i: Tensor, moves_j: Tensor):
        threads = torch.get_num_threads()
        rows = W_dec.detach().numpy()
        norms = _core.row_norms(rows, threads=threads)
        cosine = _core.pair_cosines(rows, i.numpy(), j.numpy(), norms=norms, threads=threads)
        ctx.save_for_backward(W_dec, i, j, moves_i, moves_j, torch.from_numpy(norms))
        return torch.from_numpy(cosine)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        W_dec, i, j, moves_i, moves_j, norms = ctx.saved_tensors
        out = _core.pair_gradient(
            W_dec.detach().numpy(),
            i.numpy(),
            j.numpy(),
            grad.contiguous().numpy(),
            moves_i.numpy(),
            moves_j.numpy(),
            norms=norms.numpy(),
            threads=torch.get_num_threads(),
        )
        return torch.from_numpy(out), None, None, None, None
