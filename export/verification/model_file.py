"""An exported file as the checks read it, once for all of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled.engine.errors import MissingDependencyError
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.parameters import Params, parameter_shapes
from unrolled.export.artifact.metadata import FileInfo

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

    def params(self, config: LanguageModelConfig) -> Params:
        """Return the parameters that an exported file holds."""
        if self.path.suffix == ".onnx":
            from unrolled.export.onnx.weights import read_params

            return read_params(self.onnx.model, config.spec)
        stored = {name: value.detach().numpy() for name, value in self.torchscript[0].state_dict().items()}
        return {name: stored[name] for name in parameter_shapes(config.spec)}
