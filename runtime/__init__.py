"""Load a model file, and generate text with a language model, or run a model of another task.

    from unrolled.runtime import generate, load

    model = load("model.onnx")
    print(generate(model, ["The "], max_new_tokens=100, seed=1)[0].text)

Importing this package loads numpy; onnxruntime, torch and numba are imported by the first model that needs them.
"""

from unrolled.runtime.generation.batch_generator import BatchGenerator
from unrolled.runtime.generation.beam_search import BeamConfig, BeamGeneration, beam_search
from unrolled.runtime.generation.generate import generate
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.context import Context, extend, read
from unrolled.runtime.generation.requests.generation import Generation
from unrolled.runtime.generation.stream import stream, write
from unrolled.runtime.models.engines import ENGINES
from unrolled.runtime.models.load import load, load_language_model
from unrolled.runtime.scoring import TextScore, rank, score

__all__ = [
    "ENGINES",
    "BatchGenerator",
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
    "load_language_model",
    "rank",
    "read",
    "score",
    "stream",
    "write",
]
