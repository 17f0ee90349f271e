"""Define RNN, GRU and LSTM for onnx's reference evaluator, written from the operators' specification (opset 14).

The evaluator's own versions ignore ``sequence_lens``, and its RNN refuses Relu. Both directions are supported; peepholes,
clipping, coupled gates, scaled activations and ``layout`` 1 are refused, because no exported file uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

State = tuple[NDArray, ...]
Activation = Callable[[NDArray], NDArray]


def _sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def _relu(x: NDArray) -> NDArray:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Activation] = {"Tanh": np.tanh, "Sigmoid": _sigmoid, "Relu": _relu}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether each one is reversed
PLAIN = ("activation_alpha", "activation_beta", "clip", "input_forget", "layout")  # attributes that must be left out


class Weights:
    """Hold one direction's weights: of each gate the input's (E, H), the state's (H, H) and both biases (H,)."""

    def __init__(self, w: NDArray, r: NDArray, bias: NDArray, gates: int) -> None:
        self.w, self.r = ([part.T for part in np.split(value, gates)] for value in (w, r))
        both = np.split(bias, 2 * gates)
        self.input_bias, self.state_bias = both[:gates], both[gates:]

    def of_input(self, gate: int, x: NDArray) -> NDArray:
        return np.asarray(x @ self.w[gate] + self.input_bias[gate])

    def of_state(self, gate: int, h: NDArray) -> NDArray:
        return np.asarray(h @ self.r[gate] + self.state_bias[gate])


class _Recurrent(OpRun):
    """Run a recurrence over one or both directions; each operator adds its gates and its step."""

    gates: ClassVar[int]
    states: ClassVar[int]
    usual_activations: ClassVar[list[str]]

    def step(self, x: NDArray, state: State, weights: Weights, activations: list[Activation]) -> State:
        """Return the next state, h first, from one step's input (B, E)."""
        raise NotImplementedError

    def _run(self, X: NDArray, W: NDArray, R: NDArray, B: Any = None, lens: Any = None, *rest: Any, **kw: Any) -> Any:
        used = [name for name in PLAIN if kw.get(name)]
        if used or len(rest) > self.states:
            raise NotImplementedError(f"not written here: {used or 'peepholes'}")
        reverses = DIRECTIONS[kw.get("direction") or "forward"]
        D, B_, H, E = len(reverses), X.shape[1], R.shape[-1], X.shape[2]
        given = [W, R, B, lens, *rest]
        shapes = [(D, self.gates * H, E), (D, self.gates * H, H), (D, 2 * self.gates * H), (B_,), *[(D, B_, H)] * 2]
        for value, shape in zip(given, shapes[: len(given)], strict=True):
            if value is not None and value.shape != shape:
                raise ValueError(f"an input of {self.op_type} has shape {value.shape}, the specification says {shape}")
        if lens is not None and lens.dtype != np.int32:
            raise ValueError(f"sequence_lens is {lens.dtype}, the specification says int32")
        lens = np.full(B_, len(X)) if lens is None else lens
        bias = np.zeros((D, 2 * self.gates * H), X.dtype) if B is None else B
        initial = [*rest, *[None] * (self.states - len(rest))]
        names = kw.get("activations") or self.usual_activations * D
        each = len(names) // D
        ys, ends = [], []
        for d, reverse in enumerate(reverses):
            functions = [ACTIVATIONS[name] for name in names[d * each : (d + 1) * each]]
            weights = Weights(W[d], R[d], bias[d], self.gates)
            state = tuple(np.zeros((B_, H), X.dtype) if value is None else value[d] for value in initial)
            y, end = self._direction(X, lens, state, weights, functions, reverse)
            ys.append(y)
            ends.append(end)
        outputs = [np.stack(ys, axis=1), *(np.stack(values) for values in zip(*ends, strict=True))]
        return tuple(value.astype(X.dtype) for value in outputs[: len(self.onnx_node.output)])

    def _direction(
        self, X: NDArray, lens: NDArray, state: State, weights: Weights, activations: list[Activation], reverse: bool
    ) -> tuple[NDArray, State]:
        """Return outputs (T, B, H), zero in the padding, and each row's state after its last valid step."""
        T, rows = len(X), np.arange(X.shape[1])
        y = np.zeros((T, len(rows), state[0].shape[1]), X.dtype)
        for t in range(T):
            valid = t < lens
            place = np.where(valid, lens - 1 - t, t) if reverse else np.full(len(rows), t)
            moved = self.step(X[place, rows], state, weights, activations)
            state = tuple(np.where(valid[:, None], new, old) for new, old in zip(moved, state, strict=True))
            y[place, rows] = np.where(valid[:, None], state[0], 0)
        return y, state


class RNN(_Recurrent):
    """Ht = f(Xt·Wᵀ + Ht-1·Rᵀ + Wb + Rb)."""

    gates, states, usual_activations = 1, 1, ["Tanh"]

    def step(self, x: NDArray, state: State, weights: Weights, activations: list[Activation]) -> State:
        return (activations[0](weights.of_input(0, x) + weights.of_state(0, state[0])),)


class GRU(_Recurrent):
    """Compute the gates in the order z, r, h; the reset gate stands before or after the product with R."""

    gates, states, usual_activations = 3, 1, ["Sigmoid", "Tanh"]

    def step(self, x: NDArray, state: State, weights: Weights, activations: list[Activation]) -> State:
        (f, g), (h,) = activations, state
        z, r = (f(weights.of_input(gate, x) + weights.of_state(gate, h)) for gate in (0, 1))
        if self.linear_before_reset:
            new = g(weights.of_input(2, x) + r * weights.of_state(2, h))
        else:
            new = g(weights.of_input(2, x) + weights.of_state(2, r * h))
        return ((1 - z) * new + z * h,)


class LSTM(_Recurrent):
    """Compute the gates in the order i, o, f, c."""

    gates, states, usual_activations = 4, 2, ["Sigmoid", "Tanh", "Tanh"]

    def step(self, x: NDArray, state: State, weights: Weights, activations: list[Activation]) -> State:
        (f, g, h), (hidden, cell) = activations, state
        i, o, forget, c = (weights.of_input(gate, x) + weights.of_state(gate, hidden) for gate in range(4))
        cell = f(forget) * cell + f(i) * g(c)
        return f(o) * h(cell), cell


OPERATORS: list[type[OpRun]] = [RNN, GRU, LSTM]
