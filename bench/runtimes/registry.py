"""Runtimes of exported files, as the table names them."""

from __future__ import annotations

from dataclasses import dataclass, field

from unrolled.engine.errors import ConfigError
from unrolled.export.web import hosts_folder

HOSTS = hosts_folder()  # where npm installed onnxruntime's packages, unless another folder is named


@dataclass(frozen=True)
class Runtime:
    """A runtime, maybe with options.

    Args:
        title: its name in the table.
        module: its name in ``graph_process.py``; empty: an npm package.
        package: the npm package, in the folder ``node_modules`` of a host.
        options: of OpenVINO.
    """

    title: str
    module: str = ""
    package: str = ""
    options: dict[str, str] = field(default_factory=dict)


_UNQUANTIZED, _FLOAT32 = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}, {"INFERENCE_PRECISION_HINT": "f32"}
# an option of graph_process.py: the shapes are those of the call, set before the model is compiled
_FIXED = {"fixed shapes": "yes"}
RUNTIMES = (
    Runtime("onnxruntime", "onnxruntime"),
    Runtime("onnxruntime-node", package="node"),
    Runtime("onnxruntime-web", package="web"),
    Runtime("onnx, reference evaluator", "onnx"),
    Runtime("OpenVINO", "openvino"),
    Runtime("OpenVINO, DYNAMIC_QUANTIZATION_GROUP_SIZE=0", "openvino", options=_UNQUANTIZED),
    Runtime("OpenVINO, INFERENCE_PRECISION_HINT=f32", "openvino", options=_FLOAT32),
    Runtime("OpenVINO, both settings", "openvino", options=_UNQUANTIZED | _FLOAT32),
    Runtime("OpenVINO, both settings, fixed shapes", "openvino", options=_UNQUANTIZED | _FLOAT32 | _FIXED),
    Runtime("tract", "tract"),
)


def select_runtimes(only: str | None) -> list[Runtime]:
    """Return the runtimes whose title contains ``only``, in any case.

    Raises:
        ConfigError: there is none.
    """
    chosen = [runtime for runtime in RUNTIMES if only is None or only.lower() in runtime.title.lower()]
    if not chosen:
        raise ConfigError(f"only: got {only!r}; there are {'; '.join(runtime.title for runtime in RUNTIMES)}")
    return chosen
