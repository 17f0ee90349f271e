"""A training of any model into a run folder, and its continuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unrolled.engine.canonical import canonical_settings
from unrolled.engine.data.batches import Batches
from unrolled.engine.process_group import SINGLE_PROCESS, Group
from unrolled.engine.runs.resume_checks import run_settings
from unrolled.engine.runs.run_folder import RunFolder
from unrolled.engine.storage.description import Preprocessing
from unrolled.engine.training.config import TrainingConfig
from unrolled.engine.training.loop import train
from unrolled.engine.training.observers import Sampler, SampleWriter, TrainingObserver
from unrolled.engine.training.result import TrainingResult
from unrolled.engine.training.trainable import Trainable


def training_record(training: TrainingConfig) -> dict[str, Any]:
    """Return the settings of a training as its record contains them."""
    return canonical_settings(replace(training, validation_share=training.validation_bound))


@dataclass(frozen=True)
class TrainingRun:
    """A training of any model, ready to start.

    Args:
        trainable: the model with its initial weights and its optimizer.
        train: the training data.
        validation: the validation data; None: the last model is the best.
        training: limits, schedule, intervals.
        preprocessing: rules for the inputs, which the checkpoints contain.
        record: the training record of the checkpoints, a JSON object of objects, without result; the settings of ``training``
            are added under their name.
    """

    trainable: Trainable
    train: Batches
    validation: Batches | None
    training: TrainingConfig
    preprocessing: Preprocessing
    record: Mapping[str, Any]

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
        training, trainable = self.training, self.trainable
        record = {**self.record, "training": training_record(training)}
        all_observers: list[TrainingObserver] = []
        rules = {name: each.to_dict() for name, each in self.preprocessing.items()}
        group.check_same({"settings": run_settings(record, trainable), "preprocessing": rules})
        with ExitStack() as stack:

            def open_folder() -> tuple[TrainingResult | None, float | None]:
                folder = stack.enter_context(RunFolder(output, self.preprocessing, record, overwrite, resume))
                all_observers.extend([folder, *observers, *([SampleWriter(sampler)] if sampler else [])])
                start = folder.start(trainable, training.depends_on_limit)
                return start, folder.record["training"].get("validation_share")

            start, share = group.shared(open_folder)
            training = replace(training, validation_share=share)  # that of the resumed run; runs of 0.1.0 have none
            if start is not None and group.size > 1:
                trainable.load_training_state(group.shared(trainable.training_state))
            return train(trainable, self.train, self.validation, training, all_observers, start=start, group=group)
