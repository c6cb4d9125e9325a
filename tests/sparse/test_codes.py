"""Codes: every layout of the same activations is the same batch of entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from topk_ortho.sparse.codes import Codes


def acts(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(9, 14, generator=generator) < 0.3
    on[4] = False  # a row and a feature that never fire
    on[:, 6] = False
    return (on * (torch.rand(9, 14, generator=generator) + 0.1)).to(dtype)


def uncoalesced(dense: Tensor) -> Tensor:
    """Entries in a random order, every one of them in two halves."""
    row, col = dense.nonzero(as_tuple=True)
    order = torch.randperm(2 * len(row), generator=torch.Generator().manual_seed(1))
    index = torch.stack([row, col]).repeat(1, 2)[:, order]
    value = (dense[row, col] / 2).repeat(2)[order]
    return torch.sparse_coo_tensor(index, value, dense.shape, check_invariants=True)


def shuffled_csr(dense: Tensor) -> Tensor:
    """The features of a row in falling order."""
    csr = dense.to_sparse_csr()
    start, col, value = csr.crow_indices(), csr.col_indices().clone(), csr.values().clone()
    for a, b in zip(start[:-1].tolist(), start[1:].tolist(), strict=True):
        col[a:b], value[a:b] = col[a:b].flip(0).clone(), value[a:b].flip(0).clone()
    return torch.sparse_csr_tensor(start, col, value, dense.shape, check_invariants=False)


def with_stored_zeros(dense: Tensor) -> Tensor:
    row, col = torch.ones_like(dense).nonzero(as_tuple=True)
    return torch.sparse_coo_tensor(torch.stack([row, col]), dense.flatten(), dense.shape)


LAYOUTS = {
    "dense": lambda dense: dense,
    "transposed": lambda dense: dense.T.contiguous().T,
    "negative zeros": lambda dense: torch.where(dense == 0, -0.0, dense),
    "csr": lambda dense: dense.to_sparse_csr(),
    "csr with 32-bit indices": lambda dense: torch.sparse_csr_tensor(
        dense.to_sparse_csr().crow_indices().int(),
        dense.to_sparse_csr().col_indices().int(),
        dense.to_sparse_csr().values(),
        dense.shape,
        check_invariants=True,
    ),
    "csr out of order": shuffled_csr,
    "csc": lambda dense: dense.to_sparse_csc(),
    "coo": lambda dense: dense.to_sparse_coo(),
    "coo uncoalesced": uncoalesced,
    "coo with stored zeros": with_stored_zeros,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_batch(layout: str, dtype: torch.dtype) -> None:
    dense = acts(dtype)
    codes = Codes.of(LAYOUTS[layout](dense))
    row, col = dense.nonzero(as_tuple=True)
    assert torch.equal(codes.row, row)
    assert torch.equal(codes.col, col)
    assert torch.equal(codes.value, dense[row, col])
    assert codes.value.dtype == dtype
    assert codes.row.dtype == codes.col.dtype == codes.crow.dtype == torch.int64
    assert (codes.batch, codes.d_sae, codes.nnz) == (9, 14, len(row))
    assert codes.crow.tolist() == [0, *(dense > 0).sum(1).cumsum(0).tolist()]
    assert codes.counts().tolist() == (dense > 0).sum(0).tolist()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4), (0, 0)])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_nothing_active_is_an_empty_batch(shape: tuple[int, int], sparse: bool) -> None:
    zeros = torch.zeros(shape)
    codes = Codes.of(zeros.to_sparse_csr() if sparse else zeros)
    assert (codes.batch, codes.d_sae, codes.nnz) == (*shape, 0)
    assert codes.crow.tolist() == [0] * (shape[0] + 1)
    assert codes.counts().tolist() == [0] * shape[1]


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_codes_carry_no_gradient(sparse: bool) -> None:
    dense = acts().requires_grad_()
    assert not Codes.of(dense.to_sparse_coo() if sparse else dense).value.requires_grad


@pytest.mark.fault("codes that are not finite")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -0.5])
@pytest.mark.parametrize("layout", ["dense", "csr", "coo"])
def test_what_is_no_activation_is_refused_by_place(layout: str, bad: float) -> None:
    dense = acts()
    dense[3, 6] = bad
    with pytest.raises(ValueError, match=r"acts\[3, 6\] = .* was given, but finite"):
        Codes.of(LAYOUTS[layout](dense))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)],
    ids=["1-d", "3-d", "integers"],
)
def test_what_is_no_batch_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape .* dtype .* \[batch, d_sae\] was expected"):
        Codes.of(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_entries_of_a_dense_tensor_are_those_that_torch_finds(dtype):
    acts = torch.relu(torch.randn(7, 13)).to(dtype)
    for given in (acts, acts.T, acts[:, ::2]):
        codes = Codes.of(given)
        row, col = given.nonzero(as_tuple=True)
        assert torch.equal(codes.row, row)
        assert torch.equal(codes.col, col)
        assert torch.equal(codes.value, given[row, col])
        assert codes.value.dtype == dtype


def test_top_features_in_any_order_are_the_dense_codes():
    pre = torch.randn(9, 14, generator=torch.Generator().manual_seed(1)).relu()
    value, feature = pre.topk(9, dim=1, sorted=True)
    assert (value == 0).any()
    whole = Codes.of(torch.zeros_like(pre).scatter(1, feature, value))
    top = Codes.of_top(value.requires_grad_(), feature, d_sae=14)
    for name in ("crow", "row", "col", "value"):
        assert torch.equal(getattr(top, name), getattr(whole, name))
    assert top.d_sae == 14
    for dtype in (torch.float64, torch.bfloat16):  # not read in Rust
        other = Codes.of_top(value.to(dtype), feature, d_sae=14)
        assert torch.equal(other.col, whole.col)
        assert torch.equal(other.value, whole.value.to(dtype))
    with pytest.raises(ValueError, match="not negative were expected"):
        Codes.of_top(-value, feature, d_sae=14)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_top_features_are_an_empty_batch(shape: tuple[int, int]) -> None:
    codes = Codes.of_top(torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), d_sae=9)
    assert (codes.batch, codes.d_sae, codes.nnz) == (shape[0], 9, 0)


@pytest.mark.fault("an index that is negative or out of range")
def test_a_top_feature_beyond_the_dictionary_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of the codes has feature 14"):
        Codes.of_top(torch.ones(2, 1), torch.tensor([[3], [14]]), d_sae=14)


def test_parts_are_put_one_after_the_other():
    acts = torch.relu(torch.randn(9, 5))
    acts[3] = 0
    whole = Codes.of(acts)
    joined = Codes.concatenate([Codes.of(part) for part in acts.split([4, 1, 0, 4])])
    for name in ("crow", "row", "col", "value"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert joined.d_sae == whole.d_sae
