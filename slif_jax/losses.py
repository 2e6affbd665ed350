"""The parts of the training loss, one value per example; the train step takes the means.

L = L_rec + L_consistency + lambda_kg L_kg + lambda_2 |theta|^2 (docs/method.md, section 5).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

FOCUS_BORDER = 2.2
"""Standard deviations: 1.4 % of normal scores are above, 20 of 1,400 items."""


def normalise_rows(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Rows scaled to unit length; a zero row stays zero and has a finite gradient.

    Args:
      x: `[..., D]` vectors.

    Returns:
      `[..., D]` in `x.dtype`.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import losses
      >>> losses.normalise_rows(jnp.array([[0.0, 2.0], [0.0, 0.0]])).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    return x * inverse_lengths(x)[..., None]


def inverse_lengths(x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """One over the length of each row; 0, with a gradient of 0, for a zero row.

    Args:
      x: `[..., D]` vectors.

    Returns:
      `[...]` in `x.dtype`.
    """
    squared = jnp.sum(x * x, axis=-1)
    safe = squared > 1e-24
    return jnp.where(safe, jax.lax.rsqrt(jnp.where(safe, squared, 1.0)), 0.0)


def bpr_loss(positive_scores: Float[Array, " b"], negative_scores: Float[Array, "b n"]) -> Float[Array, " b"]:
    """Bayesian personalised ranking: -log sigmoid(score of the positive - score of a negative).

    Args:
      positive_scores: `[B]`.
      negative_scores: `[B, N]`, N sampled negatives of each example.

    Returns:
      `[B]`, the mean over the negatives.

    Reference: Rendle et al., "BPR", UAI 2009, section 4.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import losses
      >>> loss = losses.bpr_loss(jnp.array([0.0]), jnp.array([[0.0, 0.0]]))
      >>> loss.shape, f"{loss[0]:.3f}"
      ((1,), '0.693')
    """
    return jnp.mean(jax.nn.softplus(negative_scores - positive_scores[:, None]), axis=1)


def sampled_softmax_loss(
    users: Float[Array, "b d"],
    positives: Float[Array, "b d"],
    negatives: Float[Array, "n d"],
    *,
    excluded: Bool[Array, "b n"],
    temperature: float,
    focus: float = 0.0,
) -> Float[Array, " b"]:
    """Cross-entropy of each positive among negatives that all examples share, by cosine.

    With `focus`, an example weighs 2 sigmoid((s - b) / focus), s being the score of its positive and b the border of
    its user's list, `FOCUS_BORDER` standard deviations above the mean of the negatives' scores: what has no chance to
    be listed is not chased. No gradient goes through the weight.

    Args:
      users: `[B, D]` user vectors.
      positives: `[B, D]` item vectors.
      negatives: `[N, D]` vectors of sampled items.
      excluded: `[B, N]`, true where item n must not count as a negative of example b, such as its own positive.
      temperature: divides the cosines. Static.
      focus: width of the border, in units of scores; 0 weighs all alike. Static.

    Returns:
      `[B]` losses.

    Reference: Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation", 2022, eq. (4). The
    weight is in the manner of Yang et al., "Breaking the Top-K Barrier", KDD 2025, with another estimate of the border.
    """
    users, positives, negatives = normalise_rows(users), normalise_rows(positives), normalise_rows(negatives)
    own = jnp.sum(users * positives, axis=1) / temperature
    scores = users @ negatives.T / temperature
    others = jnp.where(excluded, -jnp.inf, scores)
    loss = jax.nn.logsumexp(jnp.concatenate([own[:, None], others], axis=1), axis=1) - own
    if not focus:
        return loss
    border = jnp.mean(scores, axis=1) + FOCUS_BORDER * jnp.std(scores, axis=1)
    return 2.0 * jax.lax.stop_gradient(jax.nn.sigmoid((own - border) / focus)) * loss


def info_nce_loss(
    anchors: Float[Array, "a d"],
    others: Float[Array, "b d"],
    *,
    mask: Bool[Array, " b"],
    temperature: float,
    first: int | Int[Array, ""] = 0,
) -> Float[Array, " a"]:
    """Contrast between two views of the same rows, the other rows of the batch being the negatives.

    This is the paper's semantic consistency between two representations.

    Args:
      anchors: `[A, D]` one view of rows `first` to `first` + A.
      others: `[B, D]` the other view of all rows.
      mask: `[B]`, rows that take part, as anchors and as negatives; the rest get 0.
      temperature: divides the cosines.
      first: of the rows of `others`, that of the first anchor.

    Returns:
      `[A]` losses.

    Reference: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, eq. (4).
    """
    anchors, others = normalise_rows(anchors) / temperature, normalise_rows(others)
    same, counts = (jax.lax.dynamic_slice_in_dim(x, first, len(anchors)) for x in (others, mask))
    own = jnp.sum(anchors * same, axis=1)
    # A finite stand-in for minus infinity: rows and columns that take no part keep finite values and gradients.
    logits = anchors @ others.T + jnp.where(mask, 0.0, -1e9)[None, :]
    return jnp.where(counts, jax.nn.logsumexp(logits, axis=1) - own, 0.0)


def translation_loss(
    heads: Float[Array, "b d"],
    relations: Float[Array, "b d"],
    tails: Float[Array, "b d"],
    corrupted_tails: Float[Array, "b d"],
) -> Float[Array, " b"]:
    """-log sigmoid(distance of the corrupted triple - distance of the true one).

    Args:
      heads: `[B, D]` entity vectors.
      relations: `[B, D]` relation vectors.
      tails: `[B, D]` entity vectors.
      corrupted_tails: `[B, D]` vectors of random entities.

    Returns:
      `[B]` losses, with |h + r - t|^2 as distance.

    Reference: Bordes et al., "Translating Embeddings", NeurIPS 2013, eq. (1), in the pairwise form of
    Wang et al., "KGAT", KDD 2019, eq. (2).
    """

    def distance(t: Array) -> Array:
        return jnp.sum(jnp.square(heads + relations - t), axis=1)

    return jax.nn.softplus(distance(tails) - distance(corrupted_tails))


def l2_loss(*vectors: Float[Array, "#b d"]) -> Float[Array, " b"]:
    """Half the squared length of the embeddings that an example touched.

    Args:
      *vectors: `[B, D]` each, or `[1, D]` for what all examples share.

    Returns:
      `[B]` values.
    """
    return 0.5 * sum((jnp.sum(x * x, axis=1) for x in vectors[1:]), jnp.sum(vectors[0] * vectors[0], axis=1))
