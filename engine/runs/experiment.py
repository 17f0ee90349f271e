"""An experiment: one training from a corpus to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from unrolled.engine.canonical import canonical_settings
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
from unrolled.engine.runs.resume_checks import run_settings
from unrolled.engine.runs.run_folder import RunFolder
from unrolled.engine.settings import OPTIMISATION_PANEL, Setting, Typed, check_settings
from unrolled.engine.training.averaging import AveragedTrainable
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import Sampler, SampleWriter, TrainingObserver
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
            "training": canonical_settings(replace(self.training, validation_share=self.training.validation_bound)),
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
        """Train into the run folder ``output``, or resume the run there.

        Args:
            overwrite: whether an earlier run in the folder may be replaced.
            observers: observers in addition to the run folder.
            resume: whether to continue the run in the folder, if there is one.
            sampler: writes a text after each validation.
            group: the processes that train together; only the leading one has the folder, observers and sampler.

        Raises:
            ConfigError: the folder cannot be used, or its run has other settings.
            ModelFileError: a file of the run to resume is damaged.
            DivergedError: loss or gradient became NaN or infinite, or the loss exploded.
            ProcessLostError: another process of the group has ended or does not answer.
            SaveError: the disk is full or the folder can no longer be written.
        """
        record, training, trainable = self.experiment.record(self.corpus), self.experiment.training, self.trainable
        all_observers: list[TrainingObserver] = []
        group.check_same({"settings": run_settings(record, trainable), "tokenizer": self.dataset.tokenizer.to_dict()})
        with ExitStack() as stack:

            def open_folder() -> tuple[TrainingResult | None, float | None]:
                folder = stack.enter_context(RunFolder(output, self.dataset.tokenizer, record, overwrite, resume))
                all_observers.extend([folder, *observers, *([SampleWriter(sampler)] if sampler else [])])
                start = folder.start(trainable, training.depends_on_limit)
                return start, folder.record["training"].get("validation_share")

            start, share = group.shared(open_folder)
            training = replace(training, validation_share=share)  # that of the resumed run; runs of 0.1.0 have none
            if start is not None and group.size > 1:
                trainable.load_training_state(group.shared(trainable.training_state))
            data, validation = self.dataset.train, self.dataset.validation
            return train(trainable, data, validation, training, all_observers, start=start, group=group)


def _make_reference(spec: ModelSpec, params: Params, optimizer: OptimizerConfig, clip_norm: float | None) -> Trainable:
    """Return a trainable of the NumPy reference."""
    return EngineTrainable(spec, params, optimizer, clip_norm)


def make_dataset(corpus: Corpus | EncodedCorpus, data: DataConfig) -> Dataset:
    """Return the batches of a corpus, which is encoded now if it is text."""
    return corpus.prepare(data) if isinstance(corpus, EncodedCorpus) else prepare_dataset(corpus, data)


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
