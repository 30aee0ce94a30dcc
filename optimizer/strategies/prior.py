"""What is known of the space from elsewhere: another device, another batch or model size, an earlier search?

Each source tells what it expects of every configuration: what it recorded, else what a Gaussian process makes of its
records, as compressed losses (surrogate.py). The search's own model then learns what differs from the weighted sum of
the sources. The weights come from a ridge regression of what is measured here on what the sources expected of it,
which starts from equal weights (as strong as STRENGTH results) and never goes below 0, shrunk by how surely the two
agree: a source that misleads loses its weight within a few results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.errors import ConfigError
from optimizer.space import Json, Point, digest
from optimizer.strategies.candidates import Offer
from optimizer.strategies.surrogate import Encoding, Floats, Surrogate, Table, compressed, quartile

STRENGTH = 2.0  # results that equal weights count as
DOUBT = 4.0  # t² up to which an agreement counts as chance (two standard errors)
LEARNT = 300  # records of a source that its process is fitted to, the best half among them
LEAST = 2  # measured records without which a source tells nothing


@dataclass(frozen=True)
class Known:
    """One source: the first loss of points of this space, None where a point failed or broke a limit."""

    name: str
    losses: Mapping[Point, float | None]

    def document(self) -> Json:
        """What names it in a recipe: a search goes on with the same knowledge or not at all."""
        return {"name": self.name, "known": digest(sorted((p.key, loss) for p, loss in self.losses.items()))}


class Prior:
    """Raises ConfigError where a source holds too little."""

    def __init__(self, sources: Sequence[Known], encoding: Encoding) -> None:
        self._sources = [_Source(s, encoding) for s in sources]
        self.scale = float(np.mean([s.scale for s in self._sources]))
        self._rows: Table | None = None
        self._at = np.zeros((0, 0))  # (sources, rows) of the last rows

    @property
    def sources(self) -> int:
        return len(self._sources)

    def best(self, offer: Offer, source: int) -> int:
        """The unknown row that promises most by one source."""
        return int(np.argmin(np.where(offer.free, self._told(offer.rows)[source], np.inf)))

    def expected(self, seen: Table, losses: Floats, rows: Table) -> tuple[Floats, Floats] | None:
        """Of what was measured, and of other rows: the weighted sum of what the sources expect. None where they have
        shown nothing: the search is then what it would be without them."""
        at, here = self._told(rows), np.array([s.at(seen) for s in self._sources])
        centred = here - here.mean(axis=1, keepdims=True)
        pull = STRENGTH * np.diag(np.maximum(at.var(axis=1), 1e-9))
        equal = np.full(len(at), 1.0 / len(at))
        weights = np.linalg.solve(centred @ centred.T + pull, centred @ (losses - losses.mean()) + pull @ equal)
        weights = np.maximum(weights, 0.0)
        trust = _trust(weights @ here, losses)
        return (trust * weights @ here, trust * weights @ at) if trust else None

    def _told(self, rows: Table) -> Floats:
        if self._rows is not rows:
            self._rows, self._at = rows, np.array([s.at(rows) for s in self._sources])
        return self._at


def _trust(expected: Floats, losses: Floats) -> float:
    """0 to 1: how surely what was expected tells what was measured. Shrunk by the t statistic of their correlation (a
    positive-part James-Stein factor), so that what agrees by chance adds no noise."""
    spread = expected.std() * losses.std()
    if len(losses) < 3 or not spread:
        return 0.0
    r = float(np.mean((expected - expected.mean()) * (losses - losses.mean())) / spread)
    t2 = max(r, 0.0) ** 2 * (len(losses) - 2) / max(1.0 - r**2, 1e-9)
    return max(0.0, 1.0 - DOUBT / t2) if t2 else 0.0


class _Source:
    def __init__(self, known: Known, encoding: Encoding) -> None:
        points = list(known.losses)
        measured = np.array([loss is not None for loss in known.losses.values()], dtype=bool)
        if measured.sum() < LEAST:
            raise ConfigError(
                f"strategy.prior: {known.name} holds {measured.sum()} measured points of this space, too few to start "
                "from. Are its knobs and their values those of this search?"
            )
        losses = np.array([loss for loss in known.losses.values() if loss is not None])
        self.scale = quartile(losses)
        values = np.full(len(points), compressed(losses, self.scale).max())  # what failed is as bad as the worst
        values[measured] = compressed(losses, self.scale)
        rows = encoding.points(points)
        self._recorded = {row.tobytes(): float(v) for row, v in zip(rows, values, strict=True)}
        self._encoding, self._learnt, self._values = encoding, *_some(rows, values)
        self._surrogate: Surrogate | None = None

    def at(self, rows: Table) -> Floats:
        """Compressed losses, recorded or expected, of (m, columns)."""
        told = np.array([self._recorded.get(row.tobytes(), np.nan) for row in rows])
        if (unknown := np.isnan(told)).any():
            told[unknown] = self._guessed(rows[unknown])
        return told

    def _guessed(self, rows: Table) -> Floats:
        centre, spread = self._values.mean(), self._values.std() + 1e-9
        values = (self._values - centre) / spread
        if self._surrogate is None:
            self._surrogate = Surrogate(self._encoding)
            self._surrogate.fit(self._learnt, values)
        outlook = self._surrogate.outlook(rows)
        outlook.observe(self._learnt)
        return np.asarray(centre + spread * outlook.posterior(values)[0])


def _some(rows: Table, values: Floats) -> tuple[Table, Floats]:
    """At most LEARNT of them: the best, and others evenly from the rest."""
    order = np.argsort(values, kind="stable")
    if len(order) > LEARNT:
        best, rest = order[: LEARNT // 2], order[LEARNT // 2 :]
        order = np.concatenate([best, rest[np.linspace(0, len(rest) - 1, LEARNT - len(best)).astype(int)]])
    return rows[order], values[order]
