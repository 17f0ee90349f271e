"""Beam search: an approximation of the texts of the highest log-probability for their length.

    N rows: the beams of all prompts, side by side; at most K beams a prompt; a candidate is a beam and a next token

A prompt's beams are the K best unfinished texts; a text that ends among the K best candidates is kept with the score
Σ log p / tokens^length_penalty. It is the search of Hugging Face's ``generate`` with ``num_beams`` and no sampling: log p is
taken after the processors and not normalised again; the ending token counts. Ties are broken in favour of the lower beam,
then the lower token; among equal ended texts, the earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unrolled.engine.checks import check_whole
from unrolled.engine.errors import ConfigError, NothingLeftError, SettingName
from unrolled.engine.models.step_contract import LoadedModel, StepModel
from unrolled.engine.sampling.filters import FILTERS
from unrolled.engine.sampling.processors import History, Scores
from unrolled.engine.sampling.rules import check_finite, log_softmax, process
from unrolled.engine.tokenizers.contract import Tokenizer
from unrolled.runtime.generation.generate import check_config
from unrolled.runtime.generation.requests.config import GenerationConfig
from unrolled.runtime.generation.requests.generation import Generation, before_stop
from unrolled.runtime.generation.requests.prompts import prompt_tokens, read_prompts
from unrolled.runtime.models.argument_checks import check_language_model, take_texts
from unrolled.runtime.models.batch_invariance import RowModel

LENGTH_PENALTY_LIMIT = 50  # a float still holds this power of a length of a million tokens


@dataclass(frozen=True)
class BeamConfig(GenerationConfig):
    """Settings of beam search; the settings of ``GenerationConfig`` hold as for greedy choice.

    Args:
        num_beams: K, the texts that are searched side by side; 1 is greedy.
        length_penalty: the power of the length that a sum of log-probabilities is divided by; above 0 favours long texts.
        early_stopping: when the search for a prompt ends. True: as soon as K texts have ended; False: when the best beam
            would not be among them at its present length; "never": when it would not at any length.
    """

    do_sample: bool = False
    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_beams", self.num_beams, 1)
        power: Any = self.length_penalty
        if isinstance(power, bool) or not isinstance(power, int | float) or not abs(power) <= LENGTH_PENALTY_LIMIT:
            raise ConfigError(
                SettingName("length_penalty"),
                f": got {power!r}, needs a number from -{LENGTH_PENALTY_LIMIT} to {LENGTH_PENALTY_LIMIT}",
            )
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ConfigError(
                SettingName("early_stopping"), f": got {self.early_stopping!r}, choose one of false, true, 'never'"
            )
        if self.num_return_sequences > self.num_beams:
            raise ConfigError(
                SettingName("num_return_sequences"),
                f": got {self.num_return_sequences}, needs at most ",
                SettingName("num_beams"),
                f" ({self.num_beams})",
            )
        drawing: dict[str, Any] = {"do_sample": False, "seed": 0} | {
            name: getattr(GenerationConfig, name) for name in FILTERS
        }
        if used := [name for name, off in drawing.items() if getattr(self, name) != off]:
            got = getattr(self, used[0])
            raise ConfigError(SettingName(used[0]), f": got {got!r}, but beams do not draw; leave it out")


@dataclass(frozen=True)
class BeamGeneration(Generation):
    """One text, and the score that ranked it."""

    score: float = 0.0


class Beam(NamedTuple):
    """An unfinished text."""

    tokens: tuple[int, ...]
    total: float  # Σ log p after the processors
    logprobs: tuple[float, ...]  # under the model itself


class EndedBeam(NamedTuple):
    """A text that has ended."""

    score: float
    beam: Beam
    reason: str


@dataclass
class _Search:
    """The search of the texts after one prompt."""

    config: BeamConfig
    tokenizer: Tokenizer
    place: int  # of the prompt among all
    prompt: list[int]
    beams: list[Beam] = field(default_factory=lambda: [Beam((), 0.0, ())])
    ended: list[EndedBeam] = field(default_factory=list)  # the best first
    over: bool = False

    def advance(self, scores: Scores, raw: Scores) -> list[int]:
        """Add one token to the beams, and return the parent of each new one; an empty list if the search is over.

        Args:
            scores: (K, V) log-probabilities of the beams' next tokens after the processors; ``raw`` before them.
        """
        V = scores.shape[1]
        totals = (scores + np.array([[beam.total] for beam in self.beams], np.float64)).reshape(-1)
        beams: list[Beam] = []
        parents: list[int] = []
        for rank, candidate in enumerate(self._best(totals)):
            parent, token = divmod(int(candidate), V)
            before = self.beams[parent]
            beam = Beam(
                (*before.tokens, token), float(totals[candidate]), (*before.logprobs, float(raw[parent, token]))
            )
            reason = self._ending(beam.tokens)
            if reason is None:
                beams.append(beam)
                parents.append(parent)
            elif rank < self.config.num_beams:
                self._keep(beam, reason)
            if len(beams) == self.config.num_beams:
                break
        self.beams = beams
        self._finish()
        return [] if self.over else parents

    def _best(self, totals: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return candidates by falling total: enough that K go on if only <eos> ends a text; else all that are not banned."""
        wanted = len(totals) if self.config.stop else min(2 * self.config.num_beams, len(totals))
        least = max(np.partition(totals, -wanted)[-wanted], -np.finfo(np.float64).max)
        found = np.flatnonzero(totals >= least)
        return found[np.argsort(-totals[found], kind="stable")][:wanted]

    def _ending(self, tokens: tuple[int, ...]) -> str | None:
        """Return the reason why a text ends with its last token, or None."""
        if tokens[-1] == self.tokenizer.end_id:
            return "eos"
        if self.config.stop and any(stop in self.tokenizer.decode(tokens) for stop in self.config.stop):
            return "stop"
        return None

    def _score(self, total: float, length: int) -> float:
        """Return Σ log p divided by the penalised length."""
        return total / length**self.config.length_penalty

    def _keep(self, beam: Beam, reason: str) -> None:
        """Insert a beam into the K best that ended, after those of equal score."""
        self.ended.append(EndedBeam(self._score(beam.total, len(beam.tokens)), beam, reason))
        self.ended.sort(key=lambda ended: -ended.score)
        del self.ended[self.config.num_beams :]

    def _finish(self) -> None:
        """End the search at the length limit, without beams, or by the stop test on the best unfinished beam."""
        if not self.beams:
            self.over = True
            if not self.ended:
                raise NothingLeftError(self.config.extras, (self.place,))
            return
        length = len(self.beams[0].tokens)
        if length == self.config.max_new_tokens:
            for beam in self.beams:
                self._keep(beam, "length")
            self.over = True
        elif len(self.ended) == self.config.num_beams:
            stopping = self.config.early_stopping
            if stopping == "never" and self.config.length_penalty > 0:
                length = self.config.max_new_tokens
            self.over = stopping is True or self.ended[-1].score >= self._score(self.beams[0].total, length)


def _step(searches: Sequence[_Search], config: BeamConfig, logits: NDArray) -> list[int]:
    """Advance all searches by logits (N, V), and return the rows (M,) of the parents of their new beams."""
    check_finite(logits)
    raw = log_softmax(logits)
    history = None
    if config.needs_history:
        tokens = [[*search.prompt, *beam.tokens] for search in searches for beam in search.beams]
        history = History(tokens, np.full(len(tokens), len(searches[0].beams[0].tokens), np.int64))
    scores = process(raw, config, history)
    parents: list[int] = []
    begin = 0
    for search in searches:
        end = begin + len(search.beams)
        parents += [begin + parent for parent in search.advance(scores[begin:end], raw[begin:end])]
        begin = end
    return parents


def _search(model: StepModel, config: BeamConfig, searches: Sequence[_Search]) -> None:
    """Run searches to their ends, side by side; one that has ended leaves the batch."""
    rows_model = RowModel(model)
    logits, state = read_prompts(rows_model, [np.array(search.prompt, np.int64) for search in searches])
    while True:
        rows = _step(searches, config, logits)
        searches = [search for search in searches if not search.over]
        if not searches:
            return
        tokens = np.array([beam.tokens[-1] for search in searches for beam in search.beams], np.int64)
        logits, state = rows_model.step(tokens, np.ascontiguousarray(state[:, :, rows]))


def beam_search(
    model: LoadedModel, prompts: str | Iterable[str], config: BeamConfig | None = None, **settings: Any
) -> list[BeamGeneration]:
    """Search the most probable texts after ``prompts``, all beams of up to ``batch_size`` rows at a time.

    Args:
        config: settings; or give them by name, for instance ``num_beams=5``.

    Returns:
        ``num_return_sequences`` texts for each prompt, the best first; fewer if fewer are possible.

    Raises:
        ConfigError: a setting is out of its range, or there is no prompt.
        UnknownTokenError: a prompt or a setting holds a text outside the vocabulary.
        NothingLeftError: the settings leave no text after the prompts of its rows.
    """
    model = check_language_model(model)
    config = check_config(config, settings, BeamConfig, "beam_search")
    given = take_texts("prompts", prompts)
    config = config.resolved(model.tokenizer)
    encoded = [prompt_tokens(model.tokenizer, prompt).tolist() for prompt in given]
    searches = [_Search(config, model.tokenizer, place, prompt) for place, prompt in enumerate(encoded)]
    abreast = max(1, config.batch_size // config.num_beams)
    for first in range(0, len(searches), abreast):
        _search(model, config, searches[first : first + abreast])
    return [
        _generation(given[search.place], ended, search.place * config.num_return_sequences + rank, search)
        for search in searches
        for rank, ended in enumerate(search.ended[: config.num_return_sequences])
    ]


def _generation(prompt: str, ended: EndedBeam, index: int, search: _Search) -> BeamGeneration:
    """Return an ended beam as a generation."""
    text = before_stop(search.tokenizer.decode(ended.beam.tokens), search.config.stop)
    logprobs = ended.beam.logprobs if search.config.logprobs else None
    return BeamGeneration(prompt, text, ended.beam.tokens, ended.reason, index, logprobs, ended.score)
