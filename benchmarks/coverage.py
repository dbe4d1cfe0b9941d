"""How often a 95 % interval of a mean holds the truth, at few prompts: by simulation.

    python benchmarks/coverage.py [--trials 4000] [--resamples 2000]

One value a prompt, drawn from laws whose mean is known; each way of making an interval is tried on the same
draws. It prints, for each law and number of prompts, the share of trials in which the truth lay within (95 is
right), and the mean width beside that of Student's t. The ways: the percentile bootstrap (Efron 1979); the
same with quantiles moved outwards as far as Student's t says (Hesterberg 2015, "What Teachers Should Know
About the Bootstrap"); BCa (Efron 1987); BCa moved outwards in the same way, which evaluate/interval.py is;
bootstrap-t (Hall 1988), whose resamples without any spread are left out; and Student's t.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from refine_rl.evaluate.student import quantile as student

Array = NDArray[np.float64]
SIZES = (5, 10, 20, 64)
LEVEL = 0.95
NORMAL = NormalDist()


def graded(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """Bounded and skewed: most answers near 0, a few near 1."""
    return draw.beta(0.4, 1.6, size=(trials, prompts))


def binary(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """One answer a prompt, right in 30 of 100."""
    return (draw.random((trials, prompts)) < 0.3).astype(float)


def four(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """The share of right answers among four, of prompts that are easy or hard (mean 0.3)."""
    return draw.binomial(4, draw.beta(0.6, 1.4, size=(trials, prompts))) / 4


def rare(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """The same where a right answer is rare (mean 0.1)."""
    return draw.binomial(4, draw.beta(0.3, 2.7, size=(trials, prompts))) / 4


def graded_gain(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """Tuned less base: the tuned one goes half of the way to the top on every third prompt."""
    base = graded(draw, trials, prompts)
    return np.where(draw.random(base.shape) < 1 / 3, (1 - base) / 2, 0.0)


def binary_gain(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """Tuned less base, each one answer: 0.3 and 0.5 right, from the same difficulty of the prompt."""
    hard = draw.random((trials, prompts))
    base, tuned = draw.random(hard.shape) < 0.6 * hard, draw.random(hard.shape) < hard
    return tuned.astype(float) - base


def four_gain(draw: np.random.Generator, trials: int, prompts: int) -> Array:
    """Tuned less base, each the share of right answers among four: 0.3 and 0.5."""
    hard = draw.beta(0.6, 0.6, size=(trials, prompts))
    return (draw.binomial(4, hard) - draw.binomial(4, 0.6 * hard)) / 4


LAWS: Mapping[str, tuple[Callable[[np.random.Generator, int, int], Array], float]] = {
    "skewed reward": (graded, 0.2),
    "one right or wrong": (binary, 0.3),
    "share of four": (four, 0.3),
    "share of four, rare": (rare, 0.1),
    "gain on a third": (graded_gain, 0.8 / 6),
    "gain, one right or wrong": (binary_gain, 0.2),
    "gain, share of four": (four_gain, 0.2),
}
WAYS = ("percentile", "expanded", "BCa", "BCa expanded", "bootstrap-t", "Student")


def intervals(x: Array, counts: Array) -> dict[str, tuple[Array, Array]]:
    """Both ends of each interval for each row of `x` [N, P], with `counts` [R, P] as the resamples of all."""
    n = x.shape[1]
    mean = x.mean(axis=1)
    distance = x - mean[:, None]
    se = x.std(axis=1, ddof=1) / np.sqrt(n)
    means = distance @ counts.T / n  # [N, R], of the distances
    squares = distance**2 @ counts.T / n
    spread = np.sqrt(np.maximum(squares - means**2, 0) / (n - 1))
    means_sorted = np.sort(means, axis=1)
    z = NORMAL.inv_cdf(0.5 + LEVEL / 2)
    t = student(0.5 + LEVEL / 2, n - 1)
    wide = t * np.sqrt(n / (n - 1))
    cubes = (distance**3).sum(axis=1)
    scale = (distance**2).sum(axis=1)
    acceleration = np.divide(cubes, 6 * scale**1.5, out=np.zeros_like(cubes), where=scale > 0)
    below = ((means < -1e-12).mean(axis=1) + (means <= 1e-12).mean(axis=1)) / 2
    bias = np.array([NORMAL.inv_cdf(float(np.clip(b, 1e-4, 1 - 1e-4))) for b in below])

    def corrected(z: float) -> tuple[Array, Array]:
        ends = []
        for sign in (-1, 1):
            moved = bias + sign * z
            at = bias + moved / np.maximum(1 - acceleration * moved, 1e-9)
            ends.append(mean + at_quantile(means_sorted, np.array([NORMAL.cdf(float(a)) for a in at])))
        return ends[0], ends[1]

    def plain(z: float) -> tuple[Array, Array]:
        low, high = NORMAL.cdf(-z), NORMAL.cdf(z)
        return tuple(mean + at_quantile(means_sorted, np.full(len(x), q)) for q in (low, high))  # type: ignore[return-value]

    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(spread > 1e-12, means / spread, np.nan)
    low_t, high_t = np.nanquantile(np.where(se[:, None] > 0, ratios, 0.0), [0.025, 0.975], axis=1)
    return {
        "percentile": plain(z),
        "expanded": plain(wide),
        "BCa": corrected(z),
        "BCa expanded": corrected(wide),
        "bootstrap-t": (mean - high_t * se, mean - low_t * se),
        "Student": (mean - t * se, mean + t * se),
    }


def at_quantile(ordered: Array, q: Array) -> Array:
    """The quantile q [N] of each row of `ordered` [N, R], linear between two."""
    place = q * (ordered.shape[1] - 1)
    under = np.clip(place.astype(int), 0, ordered.shape[1] - 2)
    rows = np.arange(len(ordered))
    left, right = ordered[rows, under], ordered[rows, under + 1]
    return np.asarray(left + (place - under) * (right - left))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print("| law | prompts | " + " | ".join(WAYS) + " |")
    print("|---|---|" + "---|" * len(WAYS))
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    for law, (values, truth) in LAWS.items():
        for prompts in SIZES:
            draw = np.random.default_rng([asked.seed, prompts])
            counts = draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=asked.resamples)
            held = dict.fromkeys(WAYS, 0.0)
            width = dict.fromkeys(WAYS, 0.0)
            parts = max(1, asked.trials // 500)
            for _ in range(parts):
                x = values(draw, 500, prompts)
                for way, (low, high) in intervals(x, counts.astype(float)).items():
                    held[way] += float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean()) / parts
                    width[way] += float((high - low).mean())
            cells = [f"{100 * held[w]:.1f} ({width[w] / width['Student']:.2f})" for w in WAYS]
            print(f"| {law} | {prompts} | " + " | ".join(cells) + " |", flush=True)
            for way in WAYS if prompts >= 10 else ():
                shares[way].append(held[way])
    for what, of in (("lowest", min), ("mean", np.mean), ("highest", max)):
        cells = [f"{100 * float(of(shares[way])):.1f}" for way in WAYS]
        print(f"| {what} | 10 to 64 | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
