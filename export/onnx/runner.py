"""Runs of an ONNX graph of form ``run`` by onnxruntime, for a model of any description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from unrolled.engine.errors import ModelFileError, first_line
from unrolled.engine.models.spec import ModelSpec
from unrolled.export.artifact.program_runner import ProgramRunner


class OnnxRunner(ProgramRunner):
    """Predictions of an ONNX graph of form ``run``, with the calls of ``Network``.

    Args:
        session: a session from ``open_session``.
        spec: description of the model, which the graph's inputs and outputs must fit.
        where: the graph's name in error messages.

    Raises:
        ModelFileError: the inputs and outputs are not those of the spec.
    """

    def __init__(self, session: Any, spec: ModelSpec, where: str) -> None:
        super().__init__(spec, where)
        self.session = session
        for what, values, declared in zip(
            ("inputs", "outputs"), self._signature, (session.get_inputs(), session.get_outputs()), strict=True
        ):
            got = {value.name: tuple(value.shape) for value in declared}
            wanted = {name: value.axes for name, value in values.items()}
            if got != wanted:
                raise ModelFileError(f"{where}: {what} are {_listed(got)}, the spec asks for {_listed(wanted)}")

    def _results(self, given: dict[str, NDArray]) -> Mapping[str, Any]:
        try:
            names = list(self._signature.outputs)
            return dict(zip(names, self.session.run(names, given), strict=True))
        except Exception as error:  # onnxruntime's own exceptions have no public base class
            raise ModelFileError(f"{self._where}: the graph does not run ({first_line(error)})") from error


def _listed(values: Mapping[str, tuple[Any, ...]]) -> str:
    """Return names with their axes as messages show them."""
    return ", ".join(f"{name} ({', '.join(map(str, axes))})" for name, axes in values.items())
