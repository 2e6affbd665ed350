"""Linear models of the training interactions and features, in closed form, beside the vectors that are learned.

They know what vectors learned by contrast smooth over. Item-item regression: which pairs of items go together for no
other reason than that users took both; it pays where histories are long. Walks: what is much taken in the neighbourhood
of what a user has; they pay where histories are short. Content: what is like the user's items in its raw features, even
if nobody has taken it yet. Popularity: what is taken by many. Scores of all are inner products, and stand beside Z in
what is ranked.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jaxtyping import Float

from slif_jax.cold_items import ColdItems
from slif_jax.config import CONTENT, Config
from slif_jax.data import Dataset, FilledRows
from slif_jax.multihost import is_first

_MOST_DENSE = 3000  # users or items, the fewer of them, or columns, for which all pairs are written down
_VALUES_AT_ONCE = 1 << 22  # of features
_LEAST_LENGTH = 1e-3  # of features less their mean, by the root mean square of all
_MORE_COLUMNS, _POWERS = 32, 8  # than asked for, and of the Gram matrix, where features are wide
_LEAST_VARIANCE = 1e-9  # by the largest of a user, and by the mean square of their own; who has less has no scores


class LinearScores(NamedTuple):
    """Factors of a linear model's scores; r columns. A user's scores have standard deviation 1 over all items."""

    users: Float[Array, "users r"]
    items: Float[Array, "items r"]


def fit_linear(
    dataset: Dataset, config: Config, modalities: tuple[str, ...], cold: ColdItems | None = None
) -> dict[str, LinearScores]:
    """The linear models that `config` asks for, by their names in `Config.linear_weights`.

    `modalities` are those that are used; without any there is no model of the content. `cold` is what items without
    training interactions inherit from, in the models that know of interactions alone.
    """
    reach = config.cold_item_length
    models = {
        CONTENT: lambda: fit_content(dataset, modalities, rank=config.content_rank),
        "popularity": lambda: fit_popularity(dataset, cold=cold, cold_reach=reach),
        "regression": lambda: fit_regression(
            dataset,
            rank=config.regression_rank,
            l2=config.regression_l2,
            user_power=config.regression_user_power,
            cold=cold,
            cold_reach=reach,
        ),
        "walks": lambda: fit_walks(
            dataset,
            rank=config.walk_rank,
            length=config.walk_length,
            user_power=config.walk_user_power,
            item_power=config.walk_item_power,
            cold=cold,
            cold_reach=reach,
        ),
    }
    return {name: models[name]() for name in config.linear_weights() if name != CONTENT or modalities}


def fit_regression(
    dataset: Dataset,
    *,
    rank: int,
    l2: float,
    user_power: float,
    cold: ColdItems | None = None,
    cold_reach: float = 1.0,
) -> LinearScores:
    """Predicts each item from the user's other items, by ridge regression on all training interactions.

    With X the users' training items, as ones or what each counts, W = c D_u^-p X the same with users weighed by their
    sums in X, 1 at least, the squared weights of those who have any 1 in the mean, and M = V diag(s^2 / (s^2 + l2)) V^T
    from the singular values s and right singular vectors V of W, the score of item j is (X M)_j / (1 - M_jj). For items
    that the user does not have this is EASE of weighed users, exactly so at full rank: there the zero diagonal that
    EASE asks for only changes items that the user has, whose scores here are high and mean nothing. An item without
    training interactions scores as the mean of all others or, as far as `cold_reach` says, of the items that it is
    like.

    Args:
      dataset: loaded data.
      rank: singular vectors, the largest first; as many as there are, at most.
      l2: lambda, of the ridge.
      user_power: p, of users' numbers of interactions; 0: who has many counts for each of them.
      cold: items without training interactions and what they are like; None knows nothing of them.
      cold_reach: how far such items go from the mean of all others, 0, to that of their neighbours, 1.

    Returns:
      `LinearScores` on the default device.

    Raises:
      ValueError: if the singular vectors cannot be found.

    Reference: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, eq. (8); the factors as in Jin et
    al., "Towards a Better Understanding of Linear Models for Recommendation", KDD 2021, section 3.
    """
    from scipy import sparse  # here and not above: what is switched off need not be imported

    history = _history(dataset)
    rank = min(rank, *history.shape)
    per_user = np.asarray(history.sum(axis=1))
    weights = np.maximum(per_user, 1.0) ** -user_power
    some = per_user > 0
    weighed = sparse.diags_array(weights / np.sqrt(np.mean(weights[some] ** 2) if some.any() else 1.0)) @ history
    squares, v = _of_first(lambda: _singular(weighed, rank), (rank, (dataset.num_items, rank)))
    gain = squares / (squares + l2)
    left_out = 1.0 - np.sum(v * gain * v, axis=1)
    starts = history @ v
    starts *= gain
    return _scores(starts, _with_cold(v / np.maximum(left_out, 1e-6)[:, None], dataset, cold, cold_reach))


def fit_walks(
    dataset: Dataset,
    *,
    rank: int,
    length: int,
    user_power: float,
    item_power: float,
    cold: ColdItems | None = None,
    cold_reach: float = 1.0,
) -> LinearScores:
    """Walks from the user's items to others that users took with them, `length` times on, as factors.

    With X the users' training items and P = D_i^-b X^T D_u^-2a X D_i^-b, its diagonal set to zero (a step leaves the
    item it stands on), the scores are X P^length, of which the `rank` eigenvectors of P whose eigenvalues are largest
    in magnitude are kept: what whole neighbourhoods take. Powers below 1/2 for items leave much-taken items ahead of
    others. Items without training interactions are treated as by `fit_regression`.

    Args:
      dataset: loaded data.
      rank: eigenvectors; as many as there are items, at most.
      length: steps from item to item.
      user_power: a, of users' numbers of interactions: the larger, the less those with many count.
      item_power: b, of items' numbers of interactions: the larger, the less those taken by many count.
      cold: as in `fit_regression`.
      cold_reach: as in `fit_regression`.

    Returns:
      `LinearScores` on the default device.

    Raises:
      ValueError: if the eigenvectors cannot be found.

    Reference: walks with powers of popularity as in Paudel et al., "Updatable, Accurate, Diverse, and Scalable
    Recommendations for Interactive Applications", TiiS 2017 (RP3beta); few eigenvectors of a normalised item-item
    graph as in Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021 (GF-CF), section 4.
    """
    from scipy import sparse

    history = _history(dataset)
    per_user, per_item = (np.maximum(np.asarray(history.sum(axis=axis)), 1.0) for axis in (1, 0))
    weighed = sparse.diags_array(per_user**-user_power) @ history @ sparse.diags_array(per_item**-item_power)
    rank = min(rank, dataset.num_items)
    values, v = _of_first(lambda: _eigen(weighed, rank), (rank, (dataset.num_items, rank)))
    starts = history @ v
    starts *= (values / max(np.abs(values).max(), 1e-30)) ** length
    return _scores(starts, _with_cold(v, dataset, cold, cold_reach))


def fit_content(dataset: Dataset, modalities: tuple[str, ...], *, rank: int) -> LinearScores:
    """Likeness to the user's training items in their raw features, as factors.

    With c_m the features of a modality less their mean, each item's at unit length and zeros where an item lacks it,
    the score of item j is the sum of the cosines c_mi . c_mj over the user's items i and all modalities; of all their
    columns together the `rank` principal ones are kept. It does not count who took item j: items without training
    interactions have scores like any others.

    Args:
      dataset: loaded data.
      modalities: those to use, at least one.
      rank: principal columns; as many as there are, at most.

    Returns:
      `LinearScores` on the default device.

    Reference: profiles of items' features as in Pazzani and Billsus, "Content-Based Recommendation Systems", 2007, with
    dense features in the place of words.
    """
    centred = [_Centred(dataset, name) for name in modalities]
    width = sum(rows.width for rows in centred)
    rank = min(rank, width)
    step = max(1, _VALUES_AT_ONCE // width)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, dataset.num_items, step):
            yield np.concatenate([rows[start : start + step] for rows in centred], axis=1)

    (directions,) = _of_first(lambda: (_principal(blocks, width, rank),), ((width, rank),))
    items = np.concatenate([block @ directions for block in blocks()])
    return _scores(_history(dataset) @ items, items)


def fit_popularity(dataset: Dataset, *, cold: ColdItems | None = None, cold_reach: float = 1.0) -> LinearScores:
    """The logarithm of 1 and an item's number of training interactions, as one column; the same for every user.

    Args:
      dataset: loaded data.
      cold: as in `fit_regression`.
      cold_reach: as in `fit_regression`.

    Returns:
      `LinearScores` on the default device.
    """
    counts = np.bincount(dataset.train[:, 1], weights=dataset.train_values, minlength=dataset.num_items)
    everybody = np.ones((dataset.num_users, 1))
    return _scores(everybody, _with_cold(np.log1p(counts)[:, None], dataset, cold, cold_reach))


def _principal(blocks: Callable[[], Iterator[np.ndarray]], width: int, rank: int) -> np.ndarray:
    """The `rank` principal directions `[width, rank]` of the rows that `blocks` goes through."""
    from scipy import linalg

    if width <= _MOST_DENSE:
        gram = np.zeros((width, width))
        for block in blocks():
            gram += block.T @ block
        return linalg.eigh(gram, subset_by_index=[width - rank, width - 1])[1]
    # Wider ones by powers of the Gram matrix times some random columns (Halko et al. 2011): it is not written down.
    found = np.random.default_rng(0).normal(size=(width, min(width, rank + _MORE_COLUMNS)))
    for _ in range(_POWERS):
        basis = np.linalg.qr(found)[0]
        found = np.zeros_like(basis)
        for block in blocks():
            found += block.T @ (block @ basis)
    basis = np.linalg.qr(found)[0]
    inner = sum(projected.T @ projected for projected in (block @ basis for block in blocks()))
    return basis @ linalg.eigh(inner)[1][:, -rank:]


class _Centred:
    """`[I, d]` float64: a modality's features less their mean, at unit length; zeros where an item lacks it."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        modality = dataset.features[name]
        self._present = np.asarray(modality.present)
        self._rows = FilledRows(modality)
        self.width = modality.values.shape[1]
        total, squares = np.zeros(self.width), 0.0
        step, count = max(1, _VALUES_AT_ONCE // self.width), max(1, np.count_nonzero(self._present))
        for start in range(0, dataset.num_items, step):
            rows = self._rows[start : start + step].astype(np.float64)
            total += rows.sum(axis=0)
            squares += np.sum(rows * rows)
        self._mean = total / count
        self._least = _LEAST_LENGTH * np.sqrt(max(0.0, squares / count - self._mean @ self._mean))

    def __getitem__(self, block: slice) -> np.ndarray:
        rows = np.where(self._present[block, None], self._rows[block] - self._mean, 0.0)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        some = lengths > self._least  # rows at the mean, as some data sets fill gaps, are as good as absent
        return np.where(some, rows / np.where(some, lengths, 1.0), 0.0)


def _history(dataset: Dataset) -> Any:
    """Training items of every user, as a sparse matrix `[U, I]` of ones, or of what each of them counts."""
    from scipy import sparse

    values, (users, items) = dataset.train_values, dataset.train.T
    return sparse.csr_array((values, (users, items)), shape=(dataset.num_users, dataset.num_items))


def _with_cold(ends: np.ndarray, dataset: Dataset, cold: ColdItems | None, reach: float) -> np.ndarray:
    """Gives items without training interactions the mean of the others, or some of the mean of their neighbours."""
    warm = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) > 0
    mean = ends[warm].mean(axis=0) if warm.any() else np.zeros(ends.shape[1])
    ends = np.where(warm[:, None], ends, mean)
    if cold is not None:
        from scipy import sparse

        items, neighbors, weights = (np.asarray(x) for x in cold[:3])
        rows = np.repeat(np.arange(len(items)), neighbors.shape[1])
        near = sparse.csr_array((weights.ravel(), (rows, neighbors.ravel())), shape=(len(items), len(ends)))
        ends[items] = mean + reach * (near @ ends - mean)
    return ends


def _scores(starts: np.ndarray, ends: np.ndarray) -> LinearScores:
    """Scores `starts @ ends.T`, of standard deviation 1 for each user; `starts` is used up."""
    mean, second = ends.mean(axis=0), ends.T @ ends / len(ends)
    square = np.einsum("ur,ur->u", starts @ second, starts)
    variance = square - (starts @ mean) ** 2
    some = variance > _LEAST_VARIANCE * np.maximum(square, variance.max(initial=0.0))
    starts *= np.where(some, 1.0 / np.sqrt(np.where(some, variance, 1.0)), 0.0)[:, None]
    return LinearScores(*(jnp.asarray(x.astype(np.float32)) for x in (starts, ends)))


def _of_first(find: Callable[[], tuple[np.ndarray, ...]], shapes: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """What `find` returns, arrays of `shapes`, found by process 0.

    Vectors are not unique: signs, and bases of equal values, depend on the machine, and rows of users and items of
    several processes would not fit together.
    """
    if jax.process_count() == 1:
        return find()
    mine = tuple(x.astype(np.float32) for x in find()) if is_first() else tuple(np.zeros(s, np.float32) for s in shapes)
    return tuple(np.asarray(x, np.float64) for x in multihost_utils.broadcast_one_to_all(mine))


def _singular(history: Any, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of the largest singular values `[r]` and their right singular vectors `[I, r]`."""
    from scipy import linalg
    from scipy.sparse.linalg import ArpackError, svds

    size = min(history.shape)
    if size > _MOST_DENSE and rank < size:
        try:
            found = svds(history, k=rank, v0=np.ones(size))
        except ArpackError as error:
            raise ValueError(
                f"The regression's singular vectors were not found ({error}): lower --regression_rank."
            ) from None
        return np.asarray(found[1]) ** 2, np.asarray(found[2]).T
    by_user = history.shape[0] < history.shape[1]
    gram = (history @ history.T if by_user else history.T @ history).toarray()
    squares, vectors = linalg.eigh(gram, subset_by_index=[size - rank, size - 1])
    squares = np.maximum(squares, 0.0)
    if not by_user:
        return squares, vectors
    lengths = np.sqrt(squares)
    return squares, (history.T @ vectors) / np.where(lengths > 1e-6 * lengths[-1], lengths, np.inf)


def _eigen(weighed: Any, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `[r]`, largest in magnitude, and eigenvectors `[I, r]` of W^T W without its diagonal."""
    from scipy import linalg, sparse
    from scipy.sparse.linalg import ArpackError, aslinearoperator, eigsh

    size = weighed.shape[1]
    diagonal = np.asarray(weighed.multiply(weighed).sum(axis=0))
    if np.diff(weighed.tocsr().indptr).max(initial=0) < 2:  # from nowhere a step leads on
        return np.zeros(rank), np.zeros((size, rank))
    if 4 * rank > size:
        values, vectors = linalg.eigh((weighed.T @ weighed).toarray() - np.diag(diagonal))
        kept = np.argsort(-np.abs(values), kind="stable")[:rank]
        return values[kept], vectors[:, kept]
    half: Any = aslinearoperator(weighed)
    try:
        found = eigsh(half.H @ half - aslinearoperator(sparse.diags_array(diagonal)), k=rank, v0=np.ones(size))
    except ArpackError as error:
        raise ValueError(f"The walks' eigenvectors were not found ({error}): lower --walk_rank.") from None
    return np.asarray(found[0]), np.asarray(found[1])


def beside(
    users: Float[Array, "users d"],
    items: Float[Array, "items d"],
    linear: Mapping[str, LinearScores],
    weights: Mapping[str, float | Array],
) -> tuple[Float[Array, "users e"], Float[Array, "items e"]]:
    """Vectors whose inner products are those of `users` and `items` and the linear models' scores together.

    Args:
      users: `[U, D]` user vectors.
      items: `[I, D]` item vectors.
      linear: models by name; none changes nothing.
      weights: by name, of a standard deviation of a model's scores, in cosines: with unit item vectors it is times the
        length of the user's vector.

    Returns:
      `[U, D + r]` and `[I, D + r]`, r the columns of all models in the order of their names.
    """
    if not linear:
        return users, items
    lengths = jnp.linalg.norm(users, axis=1, keepdims=True)
    columns = [weights[name] * lengths * linear[name].users for name in sorted(linear)]
    return jnp.concatenate([users, *columns], axis=1), items_beside(items, linear)


def items_beside(items: Float[Array, "items d"], linear: Mapping[str, LinearScores]) -> Float[Array, "items e"]:
    """The second of `beside`, which no weight changes: `[I, D + r]`."""
    return jnp.concatenate([items, *(linear[name].items for name in sorted(linear))], axis=1)
