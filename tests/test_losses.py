"""The losses: small cases on paper, slow NumPy versions, and gradients where a row is zero or masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import losses

normalise = jax.jit(losses.normalise_rows)
bpr = jax.jit(losses.bpr_loss)
softmax = jax.jit(losses.sampled_softmax_loss, static_argnames=("temperature", "focus"))
info_nce = jax.jit(losses.info_nce_loss, static_argnames="temperature")
translation = jax.jit(losses.translation_loss)
TEMPERATURES = (1e-3, 0.2, 1e6)


def draw(seed, *shape, zero=()):
    """Normal numbers; the rows `zero` are 0. NumPy: what needs no gradient need not be compiled."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x[list(zero)] = 0
    return x


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_sum_exp(values):
    largest = max(values)
    return largest + np.log(sum(np.exp(value - largest) for value in values))


# normalise_rows


def test_rows_of_length_five_become_units():
    x = np.array([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(normalise(x), [[0.6, 0.8], [0.0, -1.0], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e18])
def test_length_does_not_change_the_direction(scale):
    x = draw(0, 4, 3)
    np.testing.assert_allclose(normalise(x * np.float32(scale)), unit(x), rtol=1e-5)


def test_a_vector_is_a_row_and_the_dtype_stays():
    x = jnp.array([0.0, 3.0, 4.0], jnp.bfloat16)
    out = normalise(x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), [0.0, 0.6, 0.8], rtol=1e-2)


def test_gradient_at_a_zero_row_is_zero_and_elsewhere_the_projection():
    x, cotangent = draw(1, 3, 4, zero=[1]), draw(2, 3, 4)
    grad = np.asarray(jax.vjp(normalise, x)[1](cotangent)[0])
    np.testing.assert_array_equal(grad[1], 0.0)
    for row in (0, 2):
        length = np.linalg.norm(x[row])
        across = np.eye(4) - np.outer(x[row], x[row]) / length**2
        np.testing.assert_allclose(grad[row], across @ cotangent[row] / length, rtol=1e-4, atol=1e-6)


# bpr_loss


def test_bpr_on_paper():
    loss = bpr(jnp.array([1.0, 0.0]), jnp.array([[1.0, 1.0], [np.log(3.0), 0.0]]))
    np.testing.assert_allclose(loss, [np.log(2), (np.log(4) + np.log(2)) / 2], rtol=1e-6)


def test_bpr_depends_on_differences_alone_and_stays_finite():
    positive, negative = draw(0, 5), draw(1, 5, 3)
    np.testing.assert_allclose(
        bpr(positive + np.float32(2), negative + np.float32(2)), bpr(positive, negative), rtol=1e-5
    )
    far = bpr(jnp.array([-1e4, 1e4]), jnp.array([[1e4], [-1e4]]))
    np.testing.assert_allclose(far, [2e4, 0.0])


def test_bpr_gradient_is_minus_the_sigmoid_of_the_margin():
    positive, negative = draw(0, 5), draw(1, 5, 3)
    grad = jax.grad(lambda p: jnp.sum(bpr(p, negative)))(positive)
    margin = positive[:, None].astype(np.float64) - negative
    np.testing.assert_allclose(grad, -np.mean(1 / (1 + np.exp(margin)), axis=1), rtol=1e-5)


# sampled_softmax_loss


def slow_softmax(users, positives, negatives, excluded, temperature):
    users, positives, negatives = unit(users), unit(positives), unit(negatives)
    out = []
    for i, user in enumerate(users):
        own = user @ positives[i] / temperature
        others = [user @ negatives[j] / temperature for j in range(len(negatives)) if not excluded[i, j]]
        out.append(log_sum_exp([own, *others]) - own)
    return out


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sampled_softmax_is_the_cross_entropy_of_the_definition(temperature):
    users, positives, negatives = draw(0, 5, 3), draw(1, 5, 3), draw(2, 4, 3)
    excluded = np.array([4, 1, 4, 0, 2])[:, None] == np.array([[1, 4, 4, 3]])
    got = softmax(users, positives, negatives, excluded=excluded, temperature=temperature)
    want = slow_softmax(users, positives, negatives, excluded, temperature)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_sampled_softmax_of_one_example_on_paper():
    user, item, others = jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0]]), jnp.array([[0.0, 1.0], [3.0, 0.0]])
    loss = softmax(user, item, others, excluded=jnp.array([[False, True]]), temperature=0.5)
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-2.0))], rtol=1e-6)


def test_a_focus_weighs_positives_by_their_distance_from_the_border():
    users, positives, negatives = draw(0, 5, 3), draw(1, 5, 3), draw(2, 40, 3)
    none = np.zeros((5, 40), bool)
    plain = np.asarray(softmax(users, positives, negatives, excluded=none, temperature=0.3))
    got = softmax(users, positives, negatives, excluded=none, temperature=0.3, focus=0.7)
    scores = unit(users) @ unit(negatives).T / 0.3
    border = scores.mean(axis=1) + losses.FOCUS_BORDER * scores.std(axis=1)
    own = (unit(users) * unit(positives)).sum(axis=1) / 0.3
    np.testing.assert_allclose(got, plain * 2 / (1 + np.exp(-(own - border) / 0.7)), rtol=1e-4)
    flat = softmax(users, positives, negatives, excluded=none, temperature=0.3, focus=1e6)
    np.testing.assert_allclose(flat, plain, rtol=1e-5)  # all at the border


def test_sampled_softmax_without_any_negative_left_is_zero():
    loss = softmax(draw(0, 2, 3), draw(1, 2, 3), draw(2, 1, 3), excluded=jnp.ones((2, 1), bool), temperature=0.3)
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_sampled_softmax_gradients_are_finite_at_zero_rows():
    arrays = draw(0, 4, 3, zero=[0]), draw(1, 4, 3, zero=[1]), draw(2, 4, 3, zero=[2])

    @jax.jit
    @jax.grad
    def gradients(arrays, excluded):
        return jnp.sum(losses.sampled_softmax_loss(*arrays, excluded=excluded, temperature=1e-3))

    for excluded in (np.zeros((4, 4), bool), np.eye(4, dtype=bool)):
        grads = [np.asarray(grad) for grad in gradients(arrays, excluded)]
        assert all(np.isfinite(grad).all() for grad in grads)
        assert not grads[0][0].any()
        assert all(grad[3].any() for grad in grads)


# info_nce_loss


def slow_info_nce(anchors, others, mask, temperature):
    anchors, others, out = unit(anchors), unit(others), []
    for i in range(len(anchors)):
        logits = {j: anchors[i] @ others[j] / temperature for j in range(len(anchors)) if mask[j]}
        out.append(log_sum_exp(list(logits.values())) - logits[i] if mask[i] else 0.0)
    return out


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0]])
def test_info_nce_is_that_of_the_definition(mask, temperature):
    anchors, others, mask = draw(0, 5, 3), draw(1, 5, 3), np.array(mask, bool)
    got = info_nce(anchors, others, mask=mask, temperature=temperature)
    np.testing.assert_allclose(got, slow_info_nce(anchors, others, mask, temperature), rtol=2e-4, atol=1e-5)


def test_info_nce_of_an_orthogonal_basis_on_paper():
    basis = np.eye(4, dtype=np.float32)
    loss = info_nce(7 * basis, basis, mask=np.ones(4, bool), temperature=0.5)
    np.testing.assert_allclose(loss, np.full(4, np.log(1 + 3 * np.exp(-2.0))), rtol=1e-6)


def test_info_nce_of_equal_vectors_is_the_log_of_their_number_whatever_the_temperature():
    same = np.ones((5, 3), np.float32)
    for temperature in TEMPERATURES:
        loss = info_nce(same, same, mask=np.ones(5, bool), temperature=temperature)
        np.testing.assert_allclose(loss, np.full(5, np.log(5)), rtol=1e-3)


def test_info_nce_follows_a_permutation_of_the_rows():
    anchors, others, mask = draw(0, 5, 3), draw(1, 5, 3), np.array([True, True, False, True, True])
    order = np.array([3, 0, 4, 2, 1])
    got = info_nce(anchors[order], others[order], mask=mask[order], temperature=0.2)
    np.testing.assert_allclose(got, np.asarray(info_nce(anchors, others, mask=mask, temperature=0.2))[order], rtol=1e-5)


def test_info_nce_gradients_are_finite_and_zero_in_masked_rows():
    arrays = draw(0, 5, 3, zero=[1]), draw(1, 5, 3, zero=[2])

    @jax.jit
    @jax.grad
    def gradients(arrays, mask):
        return jnp.sum(losses.info_nce_loss(*arrays, mask=mask, temperature=1e-3))

    for grad in gradients(arrays, np.array([True, True, True, False, False])):
        grad = np.asarray(grad)
        assert np.isfinite(grad).all()
        assert not grad[3:].any()
        assert grad[:3].any()
    for grad in gradients(arrays, np.zeros(5, bool)):
        np.testing.assert_array_equal(grad, 0.0)


# translation_loss


def test_translation_on_paper():
    heads, relations = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    loss = translation(heads, relations, jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 3.0]]))
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-4.0))], rtol=1e-5)


def test_translation_does_not_care_where_the_origin_is():
    heads, relations, tails, corrupted = (draw(seed, 6, 3) for seed in range(4))
    moved = translation(heads + np.float32(1.5), relations, tails + np.float32(1.5), corrupted + np.float32(1.5))
    np.testing.assert_allclose(moved, translation(heads, relations, tails, corrupted), rtol=1e-4)


def test_swapping_true_and_corrupted_tails_turns_the_margin_round():
    heads, relations, tails, corrupted = (draw(seed, 6, 3) for seed in range(4))
    swapped = translation(heads, relations, corrupted, tails)
    near = np.sum(np.square(heads + relations - tails), axis=1)
    far = np.sum(np.square(heads + relations - corrupted), axis=1)
    difference = np.asarray(translation(heads, relations, tails, corrupted)) - swapped
    np.testing.assert_allclose(difference, near - far, rtol=1e-4, atol=1e-5)


def test_translation_has_a_finite_gradient_where_all_vectors_are_equal():
    zero = np.zeros((2, 3), np.float32)
    grads = jax.grad(lambda args: jnp.sum(translation(*args)))((zero, zero, zero, zero))
    assert all(np.isfinite(grad).all() for grad in grads)
    np.testing.assert_allclose(translation(zero, zero, zero, zero), np.log([2.0, 2.0]), rtol=1e-6)


# l2_loss


def test_l2_adds_half_the_squares_of_every_argument():
    first, second = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[1.0, 1.0], [2.0, 0.0]])
    np.testing.assert_allclose(losses.l2_loss(first), [12.5, 0.0])
    np.testing.assert_allclose(losses.l2_loss(first, second, second), [14.5, 4.0])
