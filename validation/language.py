"""Outputs of language models: the next token at each position, and how surprised the model is."""

import numpy as np

from validation import statistics
from validation.accumulators import Readers, smooth
from validation.bootstrap import Draws
from validation.catalogue import Direction, entry, undefined
from validation.classes import ClassAgreement
from validation.elements import Numbers
from validation.outputs import OutputKind
from validation.sample_numbers import NO_LABEL
from validation.units import Floats

_KIND = frozenset({OutputKind.LANGUAGE})
_JELINEK = "Jelinek et al. 1977, J. Acoust. Soc. Am. 62"

METRICS = (
    entry(
        "perplexity_ratio",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "the candidate's perplexity over the reference's on text that the reference would write: exp(kl)",
        f"{_JELINEK}; the expected log ratio is Kullback and Leibler's 1951 divergence",
        ideal=1.0,
    ),
    entry(
        "nll_drop",
        _KIND,
        Direction.LOWER_IS_BETTER,
        "mean negative log-likelihood of the labels' tokens by the candidate minus that by the reference, in nats: the"
        " logarithm of the ratio of their perplexities on that text",
        _JELINEK,
        needs_label=True,
    ),
)


class LanguageAgreement(ClassAgreement):
    """See `ClassAgreement`; a label is the next token of each position, and negative where there is none."""

    def __init__(self, *, with_label: bool, keeps: bool) -> None:
        super().__init__(logits=True, with_label=with_label, keeps=keeps, further=("surprise", "tokens"))

    def _further(self, r_log: statistics.Floats, c_log: statistics.Floats, label: Numbers | None) -> dict[str, Floats]:
        if label is None:
            return dict.fromkeys(("surprise", "tokens"), np.zeros(r_log.shape[:-1]))
        wanted = label.astype(np.int64)
        known = (wanted >= 0) & (wanted < r_log.shape[-1])
        chosen = np.where(known, wanted, 0)[..., None]
        r, c = (np.take_along_axis(side, chosen, axis=-1)[..., 0] for side in (r_log, c_log))
        return {"surprise": np.where(known, r - c, 0.0), "tokens": known.astype(np.float64)}

    def _readers_of_kind(self, draws: Draws, n: int) -> Readers:
        readers: Readers = {"perplexity_ratio": lambda: smooth(draws, n, lambda m: np.exp(m["kl"] / m["positions"]))}
        if not self._with_label:
            return {**readers, "nll_drop": lambda: undefined(n, NO_LABEL)}
        none = "undefined: the labels name no token"
        of_labels = lambda: smooth(draws, n, lambda m: m["surprise"] / m["tokens"], none)  # noqa: E731
        return {**readers, "nll_drop": of_labels}
