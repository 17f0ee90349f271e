"""An experiment: one training from a corpus to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from unrolled.engine.canonical import canonical_settings, completed
from unrolled.engine.data.config import DataConfig
from unrolled.engine.data.corpus import Corpus
from unrolled.engine.data.dataset import Dataset, check_several_tokens, prepare_dataset
from unrolled.engine.data.token_files import EncodedCorpus
from unrolled.engine.errors import ConfigError, SettingName
from unrolled.engine.models.heads.next_token import TIE
from unrolled.engine.models.initializers import InitializerConfig, initialize_params
from unrolled.engine.models.inputs.embedded import EMBEDDING
from unrolled.engine.models.language_model_config import LanguageModelConfig
from unrolled.engine.models.layers.core_config import CELL, DROPOUT, HIDDEN, LAYERS
from unrolled.engine.models.parameters import Params
from unrolled.engine.models.spec import ModelSpec
from unrolled.engine.optimizers.config import CLIPPING, OptimizerConfig
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.runs.resume_file import RESUME, recorded_settings
from unrolled.engine.runs.training_run import TrainingRun, training_record
from unrolled.engine.settings import OPTIMISATION_PANEL, Setting, Typed, check_settings
from unrolled.engine.storage.description import text_preprocessing
from unrolled.engine.training.averaging import AveragedTrainable
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.observers import Sampler, TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import EngineTrainable, Trainable

TrainableMaker = Callable[[ModelSpec, Params, OptimizerConfig, float | None], Trainable]


@dataclass(frozen=True)
class ModelSettings:
    """A LanguageModelConfig without the size of the vocabulary, which follows from the corpus.

    Raises:
        ConfigError: a value is out of range or two do not go together.
    """

    cell: Annotated[str, CELL] = "lstm"
    embedding_size: Annotated[int, EMBEDDING] = 128
    hidden_size: Annotated[int, HIDDEN] = 256
    num_layers: Annotated[int, LAYERS] = 1
    dropout: Annotated[float, DROPOUT] = 0.0
    tie_weights: Annotated[bool, TIE] = False

    def __post_init__(self) -> None:
        self.config(vocab_size=2)  # checks the settings before a corpus is read

    def config(self, vocab_size: int) -> LanguageModelConfig:
        """Return the config of a model with a vocabulary."""
        return LanguageModelConfig(vocab_size=vocab_size, **asdict(self))


@dataclass(frozen=True)
class Experiment:
    """Settings that determine a training, together with the corpus and the engine.

    Raises:
        ConfigError: a value is out of range, or a setting needs validation data and the split has none.
    """

    training: TrainingConfig
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    clip_norm: Annotated[
        float | None,
        Setting(
            "clip",
            "Largest gradient norm; 0: no clipping.",
            OPTIMISATION_PANEL,
            CLIPPING,
            search="0.1:10:log",
            typed=Typed(float, lambda norm: norm or None, lambda norm: norm or 0.0),
        ),
    ] = 1.0
    initial: InitializerConfig = field(default_factory=InitializerConfig)

    def __post_init__(self) -> None:
        needs_validation = self.training.schedule == "plateau" or self.training.patience is not None
        if needs_validation and not self.data.split[1]:
            raise ConfigError(
                SettingName("split"),
                f": got {', '.join(map(str, self.data.split))}; the schedule plateau and patience need validation",
            )
        check_settings(self)

    def record(self, corpus: Corpus | EncodedCorpus) -> dict[str, Any]:
        """Return the training record of a checkpoint: corpus and settings."""
        return {
            "corpus": {"name": corpus.name, "characters": corpus.characters, "sha256": corpus.digest},
            "data": self.data.to_dict(),
            "initial": canonical_settings(self.initial),
            "training": training_record(self.training),
            "optimizer": {
                **canonical_settings(self.optimizer),
                "learning_rate": self.optimizer.base_learning_rate,
                "weight_decay": self.optimizer.effective_weight_decay,
                "clip_norm": self.clip_norm,
            },
        }


@dataclass(frozen=True)
class PreparedRun:
    """An experiment whose data is encoded and whose model is initialised."""

    experiment: Experiment
    corpus: Corpus | EncodedCorpus
    dataset: Dataset
    trainable: Trainable

    def run(
        self,
        output: str | Path,
        overwrite: bool = False,
        observers: Sequence[TrainingObserver] = (),
        resume: bool = False,
        sampler: Sampler | None = None,
        group: Group = SINGLE_PROCESS,
    ) -> TrainingResult:
        """Train into the run folder ``output``, or resume the run there; arguments and errors as ``TrainingRun.run``."""
        dataset, experiment = self.dataset, self.experiment
        run = TrainingRun(
            self.trainable, dataset.train, dataset.validation, experiment.training, text_preprocessing(dataset.tokenizer),
            experiment.record(self.corpus),
        )  # fmt: skip
        return run.run(output, overwrite, observers, resume, sampler, group)


def _make_reference(spec: ModelSpec, params: Params, optimizer: OptimizerConfig, clip_norm: float | None) -> Trainable:
    """Return a trainable of the NumPy reference."""
    return EngineTrainable(spec, params, optimizer, clip_norm)


def make_dataset(corpus: Corpus | EncodedCorpus, data: DataConfig) -> Dataset:
    """Return the batches of a corpus, which is encoded now if it is text."""
    return corpus.prepare(data) if isinstance(corpus, EncodedCorpus) else prepare_dataset(corpus, data)


def continue_normalization(experiment: Experiment, folder: Path) -> Experiment:
    """Return an experiment that normalises text as the run in a folder does, if the experiment leaves it open.

    Release 0.1.0 did not normalise, and recorded nothing about it: a run of words that it began goes on with its vocabulary.
    """
    data = recorded_settings(folder / RESUME).get("data")
    if experiment.data.normalize is not None or not isinstance(data, dict) or "normalize" in data:
        return experiment
    normalize = completed(DataConfig, data)["normalize"]
    return replace(experiment, data=replace(experiment.data, normalize=normalize))


def prepare_run(
    corpus: Corpus | EncodedCorpus,
    experiment: Experiment,
    make: TrainableMaker = _make_reference,
    dataset: Dataset | None = None,
) -> PreparedRun:
    """Encode the corpus and create the model, with initial weights from the experiment's seed.

    Args:
        make: creates the engine's Trainable; the default is the NumPy reference.
        dataset: the dataset of the corpus, if it exists already.
    """
    if isinstance(corpus, EncodedCorpus):
        experiment = replace(experiment, data=corpus.settle(experiment.data))
    dataset = dataset or make_dataset(corpus, experiment.data)
    check_several_tokens(corpus.name, dataset.tokenizer, experiment.data)
    spec = experiment.model.config(len(dataset.tokenizer.vocabulary)).spec
    params = initialize_params(spec, experiment.training.seed, experiment.initial)
    trainable = make(spec, params, experiment.optimizer, experiment.clip_norm)
    if experiment.training.average is not None:
        trainable = AveragedTrainable(trainable, experiment.training.average)
    return PreparedRun(experiment, corpus, dataset, trainable)
