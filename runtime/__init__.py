"""Load a model file and generate text.

    from unrolled.runtime import generate, load

    model = load("model.onnx")
    print(generate(model, ["The "], max_new_tokens=100, seed=1)[0].text)

Importing this loads numpy and, with a model, onnxruntime; torch and numba load only when an engine needs them.
"""

from unrolled.runtime.adapters import ENGINES
from unrolled.runtime.beam import BeamConfig, BeamGeneration, beam_search
from unrolled.runtime.config import GenerationConfig
from unrolled.runtime.context import Context, extend, read
from unrolled.runtime.generate import generate
from unrolled.runtime.rows import Generation
from unrolled.runtime.scoring import TextScore, rank, score
from unrolled.runtime.session import load
from unrolled.runtime.stream import stream, write

__all__ = [
    "ENGINES",
    "BeamConfig",
    "BeamGeneration",
    "Context",
    "Generation",
    "GenerationConfig",
    "TextScore",
    "beam_search",
    "extend",
    "generate",
    "load",
    "rank",
    "read",
    "score",
    "stream",
    "write",
]
