"""An exported file as the checks read it, once for all of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.storage.checkpoint import Checkpoint, load_checkpoint
from unrolled.export.artifact.forms import RUN
from unrolled.export.artifact.metadata import FileInfo
from unrolled.export.artifact.program_runner import ProgramRunner
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage

if TYPE_CHECKING:
    from unrolled.export.onnx.reader import OnnxFile
    from unrolled.export.torch.torchscript import ScriptedModel


class ModelFile:
    """A model file under verification; its content is read when a check first needs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def onnx(self) -> OnnxFile:
        from unrolled.export.onnx.reader import read_onnx

        return read_onnx(self.path)

    @cached_property
    def torchscript(self) -> tuple[Any, FileInfo]:
        try:
            from unrolled.export.torch.torchscript import read_torchscript
        except ImportError as error:
            needed = f'{self.path}: a TorchScript file needs torch: pip install "unrolled[torch]"'
            raise MissingDependencyError(needed) from error

        return read_torchscript(self.path)

    @property
    def scripted(self) -> ScriptedModel:
        from unrolled.export.torch.torchscript import ScriptedModel

        return ScriptedModel(*self.torchscript)

    @cached_property
    def info(self) -> FileInfo | None:
        """Return the metadata of an exported file; None for a checkpoint, whose reader checks it completely."""
        if self.path.suffix == ".onnx":
            return self.onnx.info
        return self.torchscript[1] if self.path.suffix == ".pt" else None

    def params(self, spec: ModelSpec) -> Params:
        """Return the parameters that an exported file holds."""
        if self.path.suffix == ".onnx":
            from unrolled.export.onnx.weights import read_params

            return read_params(self.onnx.model, spec)
        from unrolled.export.torch.torchscript import read_params as read_program

        return read_program(self.torchscript[0], spec)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.path)

    @property
    def spec(self) -> ModelSpec:
        """Return the description of the model."""
        return self.checkpoint.spec if self.info is None else self.info.spec

    def runner(self) -> ProgramRunner:
        """Return the program of form ``run`` in the file, ready to run; of a checkpoint, the ONNX graph made of it."""
        if self.path.suffix == ".pt":
            from unrolled.export.torch.torchscript import ScriptedRunner

            module, info = self.torchscript
            return ScriptedRunner(module, info.spec, str(self.path))
        if self.info is None:
            return self._written(self.checkpoint.float32(), FLOAT32_STORAGE)
        return self._opened(self.onnx.data)

    def rewritten(self) -> ProgramRunner:
        """Return the ONNX graph of form ``run`` that is written from the weights of an exported file, in their storage."""
        assert self.info is not None
        return self._written(self.params(self.spec), self.info.weights)

    def _written(self, params: Params, storage: WeightStorage) -> ProgramRunner:
        from unrolled.export.onnx.writer import bare_model

        return self._opened(bare_model(self.spec, params, RUN, storage).SerializeToString())

    def _opened(self, data: bytes) -> ProgramRunner:
        from unrolled.export.onnx.runner import OnnxRunner
        from unrolled.export.onnx.stepper import open_session

        return OnnxRunner(open_session(data, str(self.path)), self.spec, str(self.path))
