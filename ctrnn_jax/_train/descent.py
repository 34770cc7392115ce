"""One step of gradient descent as a pure function of one member, and compiled chunks of steps.

An ensemble is the vmap of a member. The length of a chunk is traced: how a run is cut changes no
bit of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

from .._util import checks
from .._util.types import Array, PyTree

CAPACITY = 1000  # steps that a chunk has room for
PATIENCE_SHARE = 1e-3  # of the loss: what counts as an improvement
REJECTED_IN_A_ROW = 30  # halvings: 2^-30 of an update

RUNNING, TARGET, NON_FINITE, PATIENCE, CALLBACK = range(5)


class Task(eqx.Module):
    """What stays the same in a training: arrays are traced, and a program compiled for the rest."""

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    frozen: PyTree
    static: PyTree
    data: PyTree
    key: Any
    members: int | None
    batch_size: int | None
    takes_key: bool
    clip_norm: float | None
    target_loss: float | None
    patience: int | None

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of one member as one of all."""
        return function if self.members is None else jax.vmap(function)


class State(NamedTuple):
    """One member between two steps. The next candidate is accepted + factor * update."""

    accepted: PyTree  # the last parameters whose loss and gradient were finite
    update: PyTree
    factor: Array
    optimizer: PyTree
    rejected: Array  # candidates in a row
    skipped: Array
    best: PyTree
    best_loss: Array
    best_step: Array
    patience_loss: Array  # the last loss that counted as an improvement
    patience_step: Array
    reason: Array


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    # optax mixes dtypes and ranks; the loss still runs as strictly as the caller has it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def initial(task: Task, params: PyTree) -> State:
    real = jnp.result_type(float)

    def member(params: PyTree) -> State:
        zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, real)
        update = jax.tree.map(jnp.zeros_like, params)
        return State(
            params, update, jnp.ones((), real), task.optimizer.init(params), zero, zero,
            params, inf, zero - 1, inf, zero, zero + RUNNING,
        )  # fmt: skip

    with _lenient():
        state = task.each(member)(params)
        # Weak types are not kept by files, and would compile a second program.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)


@eqx.filter_jit
def chunk(task: Task, state: State, first: Array, count: Array) -> tuple[State, Array, Array]:
    """`count` steps from `first` on, fewer if all stop: state, steps made, losses and norms."""
    size, order, batches = task.batch_size, None, 1

    def order_of(epoch: Array) -> Array:
        def member(key: Any) -> Array:
            shuffle = jax.random.fold_in(jax.random.split(key)[0], epoch)
            return jax.random.permutation(shuffle, total)

        return task.each(member)(task.key)

    if size is not None:
        total = jax.tree.leaves(task.data)[0].shape[0 if task.members is None else 1]
        batches = total // size
        order = order_of(first // batches)

    def body(carry: Any) -> Any:
        i, state, order, log = carry
        step = first + i
        if size is not None:
            renew = (step % batches == 0) & (i > 0)
            order = lax.cond(renew, lambda: order_of(step // batches), lambda: order)

        def member(state: State, frozen: PyTree, data: PyTree, order: Any, key: Any) -> Any:
            if size is not None:
                rows = lax.dynamic_slice_in_dim(order, step % batches * size, size)
                data = jax.tree.map(lambda leaf: leaf[rows], data)
            batch = () if data is None else (data,)
            options = {}
            if task.takes_key:
                options["key"] = jax.random.fold_in(jax.random.split(key)[1], step)

            def objective(params: PyTree) -> Array:
                model = eqx.combine(params, frozen, task.static)
                return _scalar(task.loss(model, *batch, **options))

            return _step(task, state, objective, step)

        state, entry = task.each(member)(state, task.frozen, task.data, order, task.key)
        return i + 1, state, order, log.at[i].set(entry)

    def unfinished(carry: Any) -> Array:
        return (carry[0] < count) & jnp.any(carry[1].reason == RUNNING)

    log = jnp.zeros((CAPACITY, *state.reason.shape, 2), jnp.result_type(float))
    start = (jnp.zeros_like(count), state, order, log)
    done, state, _, log = lax.while_loop(unfinished, body, start)
    return state, done, log


def _scalar(value: Any) -> Array:
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        shape = getattr(value, "shape", None)
        got = type(value).__name__ if shape is None else f"{value.dtype} of shape {shape}"
        checks.fail("loss", "a floating-point scalar to be returned", got, TypeError)
    return value


def _step(
    task: Task, state: State, objective: Callable[..., Any], step: Array
) -> tuple[State, Array]:
    """The next state of one member, and the loss and gradient norm it met on the way."""
    params = _candidate(state.accepted, state.update, state.factor)
    value, gradient = jax.value_and_grad(objective)(params)
    with _lenient():
        gradient = jax.tree.map(jnp.conj, gradient)  # downhill for complex parameters, too
        norm = _norm(gradient)
        if task.clip_norm is not None:
            share = jnp.minimum(task.clip_norm / norm, 1)
            gradient = jax.tree.map(lambda g: g * share.astype(g.dtype), gradient)
        optimizer = optax.with_extra_args_support(task.optimizer)
        update, inner = optimizer.update(
            gradient, state.optimizer, params, value=value, grad=gradient
        )
        value = value.astype(jnp.result_type(float))
    finite = jnp.isfinite(value)
    good = finite & jnp.isfinite(norm)
    better = finite & (value < state.best_loss)
    # Against the last improvement and not the best loss, so that many small ones count together.
    before = jnp.where(jnp.isfinite(state.patience_loss), state.patience_loss, 0)
    improved = finite & (value < state.patience_loss - PATIENCE_SHARE * jnp.abs(before))
    since = jnp.where(improved, step, state.patience_step)
    rejected = jnp.where(good, 0, state.rejected + 1)
    accepted, update = _choose(good, (params, update), (state.accepted, state.update))
    factor = jnp.where(good, jnp.minimum(2 * state.factor, 1), state.factor / 2)
    hopeless = rejected >= REJECTED_IN_A_ROW
    if not task.takes_key and task.batch_size is None:
        # Back to the digits of the accepted ones, or still at the initial ones: nothing is new.
        following = _candidate(accepted, update, factor)
        hopeless = hopeless | (~good & _equal(following, accepted))
    reason = jnp.where(hopeless, NON_FINITE, state.reason)
    if task.patience is not None:
        tired = good & (step - since >= task.patience)
        reason = jnp.where(tired, PATIENCE, reason)
    if task.target_loss is not None:
        reason = jnp.where(finite & (value <= task.target_loss), TARGET, reason)
    new = State(
        accepted=accepted,
        update=update,
        factor=factor,
        optimizer=_choose(good, inner, state.optimizer),
        rejected=rejected,
        skipped=state.skipped + jnp.where(good, 0, 1),
        best=_choose(better, params, state.best),
        best_loss=jnp.where(better, value, state.best_loss),
        best_step=jnp.where(better, step, state.best_step),
        patience_loss=jnp.where(improved, value, state.patience_loss),
        patience_step=since,
        reason=reason,
    )
    active = state.reason == RUNNING
    return _choose(active, new, state), jnp.where(active, jnp.stack([value, norm]), jnp.nan)


def _candidate(accepted: PyTree, update: PyTree, factor: Array) -> PyTree:
    with _lenient():
        return optax.apply_updates(
            accepted, jax.tree.map(lambda u: factor.astype(u.dtype) * u, update)
        )


def _equal(a: PyTree, b: PyTree) -> Array:
    same = jax.tree.map(lambda x, y: jnp.all(x == y), a, b)
    return functools.reduce(jnp.logical_and, jax.tree.leaves(same))


def _choose(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where `condition`, else `old`, in the dtypes of `old`."""
    return jax.tree.map(lambda n, o: jnp.where(condition, jnp.asarray(n, o.dtype), o), new, old)


def _norm(tree: PyTree) -> Array:
    """Euclidean norm of all leaves, scaled: squares of exploding gradients would overflow."""
    leaves = [jnp.abs(leaf).astype(jnp.result_type(float)) for leaf in jax.tree.leaves(tree)]
    largest = functools.reduce(jnp.maximum, [jnp.max(leaf, initial=0) for leaf in leaves])
    scale = jnp.where(largest > 0, largest, 1)
    return scale * jnp.sqrt(sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves))
