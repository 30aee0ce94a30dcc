"""What does a Gaussian process expect of a configuration, and how sure is it?

The kernel is Matérn-5/2 (Rasmussen and Williams 2006, eq. 4.17) of a distance that adds up, a knob at a time,

    r² = Σ aₚ (xₚ − x'ₚ)²  +  Σ hₚ [xₚ ≠ x'ₚ]

an ordinal term for ordered knobs and a Hamming term for knobs with several values or without an order: a tile of 48 may
behave like one of 40 or 56, or like none of its neighbours, and the data say which. The weights aₚ, hₚ, the signal and
the noise maximise the marginal likelihood (ibid., eq. 5.8) under log-normal priors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.space import Float, Knob, is_number, place

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

HAMMING_FROM = 4  # values from which an ordered knob gets a Hamming term too
LOG_FROM = (
    4.0  # ratio of its largest to its smallest value from which a knob of positive numbers is taken as logarithmic
)
SQRT5 = math.sqrt(5.0)


class Encoding:
    """Configurations as numbers: (n, ordinal) coordinates from 0 to 1, and (n, hamming) categories."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self.knobs = [k for k in knobs if k.domain.size != 1 or k.when is not None]
        self._columns = [list(knobs).index(k) for k in self.knobs]
        self.ordinal = [i for i, k in enumerate(self.knobs) if k.domain.ordered and k.domain.size != 1]
        self.hamming = [i for i, k in enumerate(self.knobs) if _has_categories(k)]
        self._coordinates = [_coordinates(self.knobs[i]) for i in self.ordinal]
        self.levels = [(self.knobs[i].domain.size or 0) + 1 for i in self.hamming]

    @property
    def size(self) -> int:
        """Of the weights: one for every ordinal and every Hamming term."""
        return len(self.ordinal) + len(self.hamming)

    def of_rows(self, rows: NDArray[np.int32]) -> "Points":
        """Of a table of indices (Feasible.rows); no knob is continuous."""
        own = rows[:, self._columns]
        x = np.empty((len(rows), len(self.ordinal)))
        for j, (i, coordinates) in enumerate(zip(self.ordinal, self._coordinates, strict=True)):
            assert coordinates is not None
            x[:, j] = coordinates[own[:, i]]  # -1, not active, takes the last: the middle
        return Points(x, own[:, self.hamming].astype(np.intp) + 1)


def _has_categories(knob: Knob) -> bool:
    size = knob.domain.size
    if size is None:
        return False
    return knob.when is not None or size >= HAMMING_FROM or (size > 1 and not knob.domain.ordered)


def _coordinates(knob: Knob) -> Floats | None:
    """Of each value of a finite ordered knob, with one more for where it is not active: the middle."""
    domain = knob.domain
    if isinstance(domain, Float):
        return None
    values = [domain.at(i) for i in range(domain.size)]
    if all(is_number(v) for v in values):
        numbers = np.array([float(v) for v in values])
        if numbers.min() > 0 and numbers.max() / numbers.min() >= LOG_FROM:
            numbers = np.log2(numbers)
        found = (numbers - numbers.min()) / (np.ptp(numbers) or 1.0)
    else:
        found = np.array([place(knob, v) for v in values])
    return np.append(found, 0.5)


@dataclass(frozen=True)
class Points:
    x: Floats  # (n, ordinal)
    c: Ints  # (n, hamming)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Ints) -> "Points":
        return Points(self.x[index], self.c[index])


def squared_terms(a: Points, b: Points) -> Floats:
    """(terms, len(a), len(b)): what each knob adds to the distance before weighting."""
    ordinal = (a.x.T[:, :, None] - b.x.T[:, None, :]) ** 2
    hamming = (a.c.T[:, :, None] != b.c.T[:, None, :]).astype(float)
    return np.concatenate([ordinal, hamming])


def matern(r2: Floats) -> Floats:
    r = np.sqrt(np.maximum(r2, 0.0))
    return np.asarray((1.0 + SQRT5 * r + 5.0 / 3.0 * r2) * np.exp(-SQRT5 * r))


@dataclass
class Weights:
    """Logarithms of the kernel's parameters."""

    terms: Floats  # (terms,)
    signal: float = 0.0
    noise: float = math.log(1e-3)

    def vector(self) -> Floats:
        return np.concatenate([self.terms, [self.signal, self.noise]])

    @classmethod
    def of(cls, vector: Floats) -> "Weights":
        return cls(vector[:-2].copy(), float(vector[-2]), float(vector[-1]))
