"""Gradient descent on any model: guarded, clipped, stopped in time, resumable, ensembles at once.

The steps themselves are in `descent`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._files.models import register
from .._util import checks
from .._util.types import Array, Float, Int, PyTree
from . import descent
from .checkpoint import Checkpoint
from .descent import CALLBACK, RUNNING, Task, chunk, initial

# What the host does between two chunks costs about a millisecond, and Ctrl-C waits for their end.
CHUNK_SECONDS = 0.5
REASONS = ("steps", "target", "non-finite", "patience", "callback")


class History(eqx.Module):
    """What happened in a training; for an ensemble every array has a last axis of members.

    Step k evaluates the loss after k updates, so `losses[0]` belongs to the initial model.

    Attributes:
        losses: (steps,) loss of each step; nan where a member had stopped.
        gradient_norms: (steps,) norm of the gradient before clipping.
        skipped: number of steps whose loss or gradient was not finite.
        best_step: the step of the lowest loss; -1 where none was finite.
        best_loss: the lowest loss, that of the model returned; inf where none was finite.
        stopped: why it ended: "steps" (all were made), "target", "patience", "non-finite" or
            "callback", and "running" for callbacks; for an ensemble one for each member.
    """

    losses: Float[Array, " steps *members"]
    gradient_norms: Float[Array, " steps *members"]
    skipped: Int[Array, "*members"]
    best_step: Int[Array, "*members"]
    best_loss: Float[Array, "*members"]
    stopped: str | tuple[str, ...] = eqx.field(static=True)

    def __repr__(self) -> str:
        steps, *members = self.losses.shape
        why = (self.stopped,) if isinstance(self.stopped, str) else self.stopped
        ends = ", ".join(f"{why.count(w)} {w}" if members else w for w in dict.fromkeys(why))
        best, at = np.ravel(np.asarray(self.best_loss)), np.ravel(np.asarray(self.best_step))
        first = int(np.argmin(best))
        of = f" of {members[0]} members" if members else ""
        whose = f" by member {first} (median {np.median(best):.4g})" if members else ""
        return (
            f"History: {steps} steps{of}, stopped by {ends}\n"
            f"  best loss {best[first]:.4g} at step {at[first]}{whose}\n"
            f"  {np.sum(self.skipped)} steps skipped as not finite"
        )


register(History)


def fit(
    model: Any,
    loss: Callable[..., Any],
    *,
    steps: int,
    optimizer: optax.GradientTransformation | None = None,
    key: Any = None,
    data: Any = None,
    batch_size: int | None = None,
    ensemble: bool = False,
    clip_norm: float | None = 1.0,
    target_loss: float | None = None,
    patience: int | None = None,
    callbacks: Sequence[Callable[[int, Any, History], Any]] = (),
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> tuple[Any, History]:
    """Train a model by gradient descent, and return the best one that was met.

    p_{k+1} = p_k + optimizer(clip(∇ loss(p_k))). Step k evaluates loss and gradient at p_k and
    makes the next update: `steps` evaluations, and steps - 1 updates of which the loss was seen.

    Where loss or gradient is not finite the step is skipped: the optimizer does not see it, and
    the next step tries half of the last update, then a quarter, ...; good steps double the share
    again, up to 1. A member stops as "non-finite" after 30 skipped steps in a row, and at once
    where nothing is random and the next would repeat an evaluation: where the initial model
    fails, or an update has been halved down to round-off.

    Args:
        model: any PyTree. Trained are the arrays marked by `model.trainable`, a PyTree of bools,
            where there is one, else all floating-point arrays.
        loss: `loss(model)`, or `loss(model, batch)` with data, giving a scalar; a parameter `key`
            gets a fresh key each step. The same function and optimizer again compile nothing anew.
        steps: number of steps, those of a checkpoint included.
        optimizer: of optax, unless given adam(1e-2); no line searches.
        key: PRNG key for mini-batches and `loss`; members get `jax.random.split(key, members)`.
        data: a PyTree of arrays, passed whole unless `batch_size` is given.
        batch_size: examples (leading axis of data) in a mini-batch. Each epoch goes through a new
            permutation and drops what does not fill a batch.
        ensemble: whether all arrays of model and data have a leading axis of members, each of
            which is trained as if alone.
        clip_norm: bound on the Euclidean norm of the whole gradient; None for none.
        target_loss: a member stops at the first loss that is not above it.
        patience: a member stops after so many steps in which its loss reached no new low by more
            than 0.1 % (at a finite one: see above for the others).
        callbacks: functions of (steps done, best model, history); True stops the training.
        callback_every: steps between two calls, unless given max(1, steps // 20).
        checkpoint: a file that holds the whole state, written about every half second and at the
            end. Where it exists the training goes on from there, to the same bits as one that was
            never interrupted, also with larger `steps`; callbacks may see a step again. A file of
            another model, data, key or setting is refused; the same loss and optimizer are up to
            you.
        progress: whether to show a bar with the best loss (median over members) on stderr.

    Returns:
        The model with the parameters of the lowest loss, and what happened. With mini-batches or
        a key that is the lowest noisy loss, not that of the whole data.

    Raises:
        TypeError, ValueError: for a wrong kind or value of an argument, or a checkpoint that is
            damaged or not of this training.
        FileNotFoundError: where the folder of the checkpoint does not exist.

    Example:
        >>> def loss(oscillator):
        ...     y = oscillator.generate(0.01, 1000)[:, 0]
        ...     return ct.losses.frequency_loss(y, 0.01, 3.2)
        >>> oscillator, history = ct.fit(oscillator, loss, steps=300, target_loss=1e-4)
        >>> history.best_loss
    """
    steps = checks.integer("steps", steps, 1)
    model, params, frozen, static = _separated(model)
    takes_key = _takes_key(loss, key, batch_size)
    optimizer = _adam() if optimizer is None else optimizer
    expected = "an optax optimizer such as optax.adam(1e-2)"
    checks.instance("optimizer", optimizer, optax.GradientTransformation, expected)
    _check_update(optimizer, params)
    data, members, batch_size = _sizes((params, frozen), data, ensemble, batch_size)
    limits = (
        None if clip_norm is None else float(checks.positive("clip_norm", clip_norm)),
        None if target_loss is None else float(checks.real("target_loss", target_loss)),
        None if patience is None else checks.integer("patience", patience, 1),
    )
    if not isinstance(callbacks, list | tuple):
        checks.fail("callbacks", "a list of functions", type(callbacks).__name__, TypeError)
    for callback in callbacks:
        checks.function("callbacks", callback, "a list of functions")
    every = max(1, steps // 20) if callback_every is None else callback_every
    every = checks.integer("callback_every", every, 1)
    checks.flag("progress", progress)

    settings = (members, batch_size, takes_key, *limits)
    keys = key if members is None or key is None else jax.random.split(key, members)
    training = _Training(Task(loss, optimizer, frozen, static, data, keys, *settings), params)
    if checkpoint is not None:
        training.open(checkpoint, [model, data, key, *map(repr, settings)])
        if training.step > steps:
            checks.fail("steps", f"at least the {training.step} of the checkpoint", steps)
    length = 1
    with progress_bar(progress, steps, training.step) as bar:
        while training.step < steps and not training.ended:
            count = min(length, descent.CAPACITY, steps - training.step)
            if callbacks:
                count = min(count, every - training.step % every)
            began = time.perf_counter()
            training.go_on(count)
            per_step = (time.perf_counter() - began) / count
            # In leaps, as the first chunk also compiles.
            length = max(1, min(16 * length, int(CHUNK_SECONDS / per_step)))
            if callbacks and training.step % every == 0:
                best, history = training.best, training.history(steps)
                if any([bool(callback(training.step, best, history)) for callback in callbacks]):
                    training.end(CALLBACK)
            if bar is not None:
                best_loss = np.median(np.asarray(training.state.best_loss))
                bar.set_postfix_str(f"best loss {best_loss:.3g}", refresh=False)
                bar.update(training.step - bar.n)
            training.write(now=training.step == steps or training.ended)
    return training.best, training.history(steps)


@functools.cache
def _adam() -> optax.GradientTransformation:
    return optax.adam(1e-2)  # one object, as the compiled programs are kept by it


def _check_update(optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Refuse what needs more than loss and gradient, as line searches do."""

    def update(params: PyTree) -> Any:
        given = {"value": jnp.zeros(()), "grad": params}
        state = optimizer.init(params)
        return optax.with_extra_args_support(optimizer).update(params, state, params, **given)

    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            jax.eval_shape(update, params)
    except TypeError as error:
        if "required keyword-only argument" not in str(error):
            raise
        expected = "an optax optimizer that needs no more than loss and gradient: no line search"
        checks.fail("optimizer", expected, str(error), TypeError)


def _separated(model: Any) -> tuple[Any, PyTree, PyTree, PyTree]:
    """The model, what is trained of it, its other arrays, and all else."""
    if any(map(checks.is_traced, jax.tree.leaves(model))):
        checks.fail("model", "known values: fit outside jit, vmap, grad", "a tracer", TypeError)
    model = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, model)
    marks = getattr(model, "trainable", True)

    def free(mark: Any, subtree: Any) -> Any:
        return jax.tree.map(lambda leaf: bool(mark) and eqx.is_inexact_array(leaf), subtree)

    try:
        params, rest = eqx.partition(model, jax.tree.map(free, marks, model))
    except (TypeError, ValueError):
        checks.fail("model", "model.trainable to be a PyTree of bools that fits it", repr(marks))
    if not jax.tree.leaves(params):
        checks.fail("model", "floating-point arrays to train", f"{type(model).__name__} without")
    return model, params, *eqx.partition(rest, eqx.is_array)


def _takes_key(loss: Any, key: Any, batch_size: Any) -> bool:
    takes = "key" in inspect.signature(checks.function("loss", loss)).parameters
    if key is not None:
        checks.prng_key("key", key)
    elif takes or batch_size is not None:
        needs = "loss has a parameter key" if takes else "batch_size is given"
        checks.fail("key", f"a PRNG key, as {needs}", "None", TypeError)
    return takes


def _sizes(
    arrays: PyTree, data: Any, ensemble: Any, batch_size: Any
) -> tuple[PyTree, int | None, int | None]:
    """The data as arrays, the number of members, and the size of a batch."""
    try:
        data = jax.tree.map(jnp.asarray, data)
    except (TypeError, ValueError):
        checks.fail("data", "a PyTree of arrays", type(data).__name__, TypeError)
    shapes = [leaf.shape for leaf in jax.tree.leaves((arrays, data))]
    members = None
    if checks.flag("ensemble", ensemble):
        if len({shape[:1] for shape in shapes}) > 1 or shapes[0][:1] in ((), (0,)):
            expected = "one leading axis of members in all arrays of model and data"
            checks.fail("ensemble", expected, f"shapes {shapes}")
        members = shapes[0][0]
    if batch_size is not None:
        batch_size = checks.integer("batch_size", batch_size, 1)
        axis = 0 if members is None else 1
        sizes = {leaf.shape[axis : axis + 1] for leaf in jax.tree.leaves(data)}
        if len(sizes) != 1 or sizes == {()}:
            expected = "one axis of examples in all arrays, as batch_size is given"
            checks.fail("data", expected, f"sizes {sorted(sizes)}")
        if batch_size > (most := sum(*sizes)):
            checks.fail("batch_size", f"at most the {most} examples", batch_size)
    return data, members, batch_size


class _Training:
    """Where a training stands: in memory, and in its checkpoint."""

    def __init__(self, task: Task, params: PyTree):
        self.task, self.state, self.step = task, initial(task, params), 0
        self.log = np.zeros((0, *self.state.reason.shape, 2), jnp.result_type(float))
        self.news: list[np.ndarray] = []
        self.checkpoint: Checkpoint | None = None

    @property
    def ended(self) -> bool:
        return not np.any(np.asarray(self.state.reason) == RUNNING)

    @property
    def best(self) -> Any:
        return eqx.combine(self.state.best, self.task.frozen, self.task.static)

    def go_on(self, count: int) -> None:
        first, room = (jnp.asarray(number, jnp.int32) for number in (self.step, count))
        self.state, done, log = chunk(self.task, self.state, first, room)
        self.news.append(np.asarray(log)[: int(done)])
        self.step += int(done)

    def end(self, reason: int) -> None:
        before = self.state.reason
        after = jnp.where(before == RUNNING, jnp.asarray(reason, before.dtype), before)
        self.state = self.state._replace(reason=after)

    def history(self, steps: int) -> History:
        log, state = self.whole_log(), self.state
        names = ("running" if self.step < steps else "steps", *REASONS[1:])
        why = tuple(names[reason] for reason in np.ravel(state.reason))
        why = why[0] if self.task.members is None else why
        # jnp.asarray would compile a copy for each new length.
        losses, norms = jax.device_put([np.ascontiguousarray(log[..., i]) for i in (0, 1)])
        return History(losses, norms, state.skipped, state.best_step, state.best_loss, why)

    def whole_log(self) -> np.ndarray:
        self.log, self.news = np.concatenate([self.log, *self.news]), []
        return self.log

    def open(self, path: Any, identity: Any) -> None:
        """Write to `path` from now on, and go on from what is there."""
        self.checkpoint = Checkpoint(path, identity, self.state)
        found = self.checkpoint.read()
        if found is not None:
            self.state = jax.tree.structure(self.state).unflatten(found["state"])
            self.step, self.log = found["step"], np.asarray(found["log"])

    def write(self, *, now: bool) -> None:
        """Write the checkpoint, if there is one, now or when the last is old enough."""
        if self.checkpoint is not None and (now or self.checkpoint.is_old):
            self.checkpoint.write(self.step, self.state, self.whole_log(), CHUNK_SECONDS)


def progress_bar(shown: bool, steps: int, done: int = 0) -> Any:
    """A bar on stderr, or a context that gives None."""
    if not shown:
        return contextlib.nullcontext()
    from tqdm import tqdm

    return tqdm(total=steps, initial=done, unit="step")
