"""Series of many kinds, and what statsmodels makes of them beside what a Tidewatch says of the same samples.

    compare.py generate FILE      writes the samples, in Prometheus' text format
    compare.py compare URL FILE N asks the Tidewatch that took them; ends with 1 if anything differs, or there are fewer than N

Nothing of Tidewatch is used: steps of one minute are made here from the samples of the file, in exact arithmetic, and looked
at by statsmodels. Times are in the text as milliseconds.

Where statsmodels itself is not exact:
- `adfuller` loses the constant of values far from 0 (its pseudo-inverse drops singular values below 1e-15 of the largest), and
  `acf` rounds the mean of such values. So both get (x - shift) * 2^-k, which changes neither. The test without
  constant depends on the shift, so it gets x * 2^-k.
- Even then the pseudo-inverse of nearly collinear columns costs digits. Where a statistic differs, the regression is solved again
  by QR with a longer mantissa. If that agrees with Tidewatch and statsmodels is further from it, the difference is
  statsmodels', and is counted; more than EXCEPTIONS_MAX of them are a failure.
- Two lags may have the same AIC but for rounding. Another lag is an exception of the same kind if the AICs of both are
  closer than AIC_GAP_MIN; then the statistics of that lag are compared.
- Of values that a regression fits exactly it prints rounding; Tidewatch says so in the status, which is checked by the residuals.
"""

import collections
import concurrent.futures
import copy
import http.client
import json
import math
import os
import sys
import urllib.parse
import warnings
from fractions import Fraction

# One thread for each process: a product of 25 columns is not worth more.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import statsmodels  # noqa: E402
from statsmodels.stats.diagnostic import acorr_ljungbox  # noqa: E402
from statsmodels.tsa.adfvalues import mackinnonp  # noqa: E402
from statsmodels.tsa.seasonal import STL, seasonal_decompose  # noqa: E402
from statsmodels.tsa.stattools import acf, adfuller  # noqa: E402

VERSION = "0.15.0"
START_MS = 1_767_225_600_000
STEP_MS = 60_000
DAY = 1_440
LAGS_MAX = 39
EXCEPTIONS_MAX = 4
# Roundings of a value that may add up in a moving average over it and a quotient.
ROUNDINGS = 16
AIC_GAP_MIN = 1e-6

# How far a value may be off, and of what.
ABSOLUTE, RELATIVE = "absolute", "relative"
TOLERANCES = {
    "steps": (0, ABSOLUTE),
    "gap_ratio": (1e-15, ABSOLUTE),
    # A gauge's step is the mean, correctly rounded but for one more rounding; a rate has three beside its increases.
    "value": (4.5e-16, RELATIVE),
    # Of itself or of a standard deviation.
    "mean": (1e-14, ABSOLUTE),
    "variance": (1e-13, RELATIVE),
    "acf": (1e-12, ABSOLUTE),
    "band": (1e-12, ABSOLUTE),
    "ljung_box_lags": (0, ABSOLUTE),
    # Of itself or of 1: below that it is the square of a rounding.
    "ljung_box_statistic": (1e-9, ABSOLUTE),
    "ljung_box_p_value": (1e-9, ABSOLUTE),
    "adf_statistic": (1e-8, RELATIVE),
    "adf_p_value": (1e-9, ABSOLUTE),
    "adf_used_lag": (0, ABSOLUTE),
    "adf_nobs": (0, ABSOLUTE),
    "adf_critical_1": (1e-13, RELATIVE),
    "adf_critical_5": (1e-13, RELATIVE),
    "adf_critical_10": (1e-13, RELATIVE),
    # In standard deviations of the values.
    "trend": (1e-11, ABSOLUTE),
    "seasonal": (1e-11, ABSOLUTE),
    "residual": (1e-11, ABSOLUTE),
    "seasonal_strength": (1e-9, ABSOLUTE),
    "trend_strength": (1e-9, ABSOLUTE),
}


# Series


def white(rng, t, i):
    return rng.normal(size=t.size) * [1, 1e-3, 1e6, 1e-12][i % 4] + [0, 5, 0, 0][i % 4]


def autoregressive(rng, t, i):
    weights = [[0.5], [0.9], [0.99], [-0.6], [0.6, -0.3], [1.2, -0.5], [0.3, 0.5]][i % 7]
    x = rng.normal(size=t.size)
    for k in range(len(weights), t.size):
        x[k] += sum(w * x[k - 1 - j] for j, w in enumerate(weights))
    return x * [1, 1e-3, 20][i % 3] + [0, 1e3, 0][i % 3]


def walk(rng, t, i):
    return np.cumsum(rng.normal(size=t.size)) * [1, 1e-6, 1e3][i % 3] + [0, 1, 1e9][i % 3]


def hourly(rng, t, i):
    phase = t / 3_600 + i / 7
    wave = [np.sin(2 * np.pi * phase), phase % 1.0, (phase % 1.0 < 0.2) * 1.0][i % 3]
    return 10 + 3 * wave + rng.normal(size=t.size) * [0.1, 1, 3][i // 3 % 3]


def half_hourly(rng, t, i):
    wave = np.sin(2 * np.pi * t / 1_800) + 0.5 * np.cos(2 * np.pi * t / 600)
    return [0, 4e10][i % 2] + 2 * wave + np.cumsum(rng.normal(size=t.size)) * 0.01 + rng.normal(size=t.size)


def counter(rng, t, i):
    """Whole numbers, with a reset every few hours."""
    x = np.cumsum(rng.poisson([3, 1e4, 0.02, 40][i % 4], t.size).astype(float)) + [0, 3e12, 0, 1e6][i % 4]
    for at in rng.integers(1, t.size, 6):
        x[at:] -= x[at] - float(rng.integers(0, 9))
    return x


def seconds_counter(rng, t, i):
    """Seconds of a processor, which are no whole numbers, with the season of the load."""
    load = 0.5 + 0.3 * np.sin(2 * np.pi * t / 3_600) + 0.1 * rng.random(t.size)
    x = np.cumsum(15 * load)
    at = t.size // (2 + i % 5)
    x[at:] -= x[at] - 0.25
    return x


def far(rng, t, i):
    """A gauge far from 0 that varies little."""
    noise = rng.normal(size=t.size)
    noise = [noise, np.cumsum(noise) / 10, noise + 5 * np.sin(2 * np.pi * t / 3_600)][i % 3]
    return [4e10, 3.9e10, 1e9, -4e10, 1e7][i % 5] + noise


def small(rng, t, i):
    x = rng.normal(size=t.size)
    return (np.cumsum(x) if i % 2 else x) * [1e-12, 1e-9, 1e-30][i % 3]


def heavy(rng, t, i):
    x = rng.standard_t([1.5, 2, 3][i % 3], t.size)
    return np.cumsum(x) if i % 4 == 3 else x


def steps(rng, t, i):
    levels = rng.normal(size=2 + i % 4) * 20
    return levels[np.minimum(t * len(levels) // (t[-1] + 1), len(levels) - 1).astype(int)] + rng.normal(size=t.size)


def spikes(rng, t, i):
    x = rng.normal(size=t.size) * 0.1 + 1
    x[rng.integers(0, t.size, 8 + i)] += rng.choice([-1, 1], 8 + i) * 10 ** (1 + i % 4)
    return x


def whole(rng, t, i):
    """Bytes of memory in pages, connections: whole numbers."""
    return np.round(np.cumsum(rng.normal(size=t.size)) * [1, 30][i % 2]) * [1, 4_096][i % 2] + [100, 2e9][i % 2]


def trend(rng, t, i):
    return t * [1e-3, 0.7][i % 2] + rng.normal(size=t.size) * [1, 50][i % 2]


def constant(_, t, i):
    return np.full(t.size, [0, 7, 4e10, 1e-9, -3.3, 0.1][i % 6])


def exact_fit(_, t, i):
    """What a regression leaves nothing of."""
    return [np.floor(t) * 0.25, 3 + np.sin(2 * np.pi * t / 3_600), (t / 60) ** 2][i]


# Of each: what makes the values, how many, how the names end, and what becomes of the samples.
FAMILIES = [
    ("white", white, 16, "", "all"),
    ("autoregressive", autoregressive, 21, "", "all"),
    ("walk", walk, 12, "", "all"),
    ("hourly", hourly, 18, "", "all"),
    ("half_hourly", half_hourly, 8, "", "all"),
    ("counter", counter, 16, "_total", "all"),
    ("seconds", seconds_counter, 8, "_total", "all"),
    ("far", far, 15, "", "all"),
    ("small", small, 9, "", "all"),
    ("heavy", heavy, 8, "", "all"),
    ("steps", steps, 8, "", "all"),
    ("spikes", spikes, 8, "", "all"),
    ("whole", whole, 8, "", "all"),
    ("trend", trend, 6, "", "all"),
    ("constant", constant, 6, "", "all"),
    ("exact", exact_fit, 3, "", "all"),
    ("steady", lambda rng, t, i: t * 0.5, 1, "_total", "all"),
    ("gaps", hourly, 9, "", "gaps"),
    ("gaps_of_walk", walk, 6, "", "gaps"),
    ("gaps_of_counter", counter, 6, "_total", "gaps"),
    ("mostly_gaps", autoregressive, 2, "", "mostly gaps"),
    ("irregular", autoregressive, 8, "", "irregular"),
    ("irregular_counter", seconds_counter, 6, "_total", "irregular"),
    ("short", hourly, 8, "", "short"),
    ("short_counter", counter, 4, "_total", "short"),
]


def times(rng, kind, i):
    """Times in milliseconds: every 15 s of 26 h, but for what is to happen to them."""
    t = START_MS + np.arange(26 * 240) * 15_000 + int(rng.integers(0, 15_000))
    if kind == "irregular":
        t = START_MS + np.cumsum(rng.integers([500, 5_000][i % 2], 25_000, 26 * 300))
        t = t[t < START_MS + 26 * 3_600_000]
    if kind == "short":
        # Those that end before the others are forgotten meanwhile.
        t = t[-[250, 300, 500, 1_000, 2_000, 3_000][i % 6] :]
    if kind == "gaps":
        # An outage, and scrapes that fail now and then: below a fifth in all.
        outage = int(rng.integers(1_500, 4_000))
        keep = rng.random(t.size) > 0.1
        keep[outage : outage + [0, 240, 700][i % 3]] = False
        t = t[keep]
    if kind == "mostly gaps":
        t = t[(t // 600_000) % 10 < 7]
    return t


def generate(path):
    with open(path, "w", encoding="ascii") as file:
        for number, (family, make, count, ending, kind) in enumerate(FAMILIES):
            for i in range(count):
                rng = np.random.default_rng([number, i])
                at = times(rng, kind, i)
                # Values go by the time since the start, in seconds.
                values = make(rng, (at - START_MS) / 1_000, i)
                name = f"{family}_{i}{ending}"
                file.writelines(f"{name} {float(v)!r} {t}\n" for t, v in zip(at.tolist(), values.tolist()))


# Steps


def read(path):
    series = collections.defaultdict(lambda: ([], []))
    with open(path, encoding="ascii") as file:
        for line in file:
            name, value, at = line.split()
            at_ms, values = series[name]
            at_ms.append(int(at))
            values.append(float(value))
    return series


def mean_of(values):
    # A sum is rounded once, and its half and quarter are exact.
    if len(values) in (1, 2, 4):
        return math.fsum(values) / len(values)
    return float(sum(map(Fraction, values)) / len(values))


def resample(name, at_ms, values):
    """The value of each step of one minute that is closed, by its number; step s covers ((s - 1) min, s min]."""
    found = collections.defaultdict(list)
    is_counter = name.endswith("_total")
    if is_counter:
        for before, at, a, b in zip(at_ms, at_ms[1:], values, values[1:]):
            found[-(-at // STEP_MS)].append((b - a if b >= a else b, at - before))
    else:
        for at, value in zip(at_ms, values):
            found[-(-at // STEP_MS)].append(value)
    # The last sample's step is open.
    found.pop(-(-at_ms[-1] // STEP_MS), None)
    if not is_counter:
        return {step: mean_of(some) for step, some in found.items()}
    total = {step: (sum(Fraction(more) for more, _ in some), sum(ms for _, ms in some)) for step, some in found.items()}
    return {step: float(more * 1_000 / ms) for step, (more, ms) in total.items()}


def window(steps, at_ms):
    """The steps of the 24 hours up to a time, as far as there were any before; NaN where there is none."""
    newest = at_ms // STEP_MS
    oldest = max(newest - DAY + 1, min(steps))
    return np.array([steps.get(step, math.nan) for step in range(oldest, newest + 1)])


# Statsmodels


class Subject:
    """A window, and what statsmodels makes of it, computed once."""

    def __init__(self, grid):
        self.grid = grid
        self.x = grid[~np.isnan(grid)]
        self.n = self.x.size
        self.mean = sum(map(Fraction, self.x.tolist())) / self.n
        off = [float(Fraction(x) - self.mean) for x in self.x.tolist()]
        self.variance = math.fsum(d * d for d in off) / self.n
        self.is_constant = bool(np.all(self.x == self.x[0]))
        self.sd = math.sqrt(self.variance)
        self.scale = 2.0 ** -math.frexp(self.sd)[1] if self.sd > 0 else 1.0
        self.shift = float(self.mean)
        self.y = (self.x - self.shift) * self.scale
        self.adf = {}

    def test(self, regression):
        if regression not in self.adf:
            self.adf[regression] = adfuller(self.of(regression), regression=regression, result_object=False)
        return self.adf[regression]

    def of(self, regression):
        return self.x * self.scale if regression == "n" else self.y


def columns(y, lags, regression, rows_from):
    """Differences, and what they are regressed on: the level, so many lags, and the deterministic terms."""
    d = np.diff(y)
    rows = range(rows_from, d.size)
    x = [y[rows_from:-1]] + [d[rows_from - 1 - j : d.size - 1 - j] for j in range(lags)]
    if regression != "n":
        x.append(np.ones(len(rows)))
    if regression == "ct":
        x.append(np.arange(1.0, len(rows) + 1))
    return d[rows_from:], x


def exact(y, lags, regression):
    """The t ratio of the level by QR (Gram-Schmidt, each twice) with a mantissa of 64 bits, and SSR / TSS."""
    d, x = columns(y, lags, regression, lags)
    basis = []
    # The level comes last, so that its coefficient is that of what the others leave of it.
    for column in x[1:] + x[:1]:
        q = column.astype(np.longdouble)
        length = np.sqrt(q @ q)
        for _ in range(3):
            for other in basis:
                q = q - other * (other @ q)
        left = np.sqrt(q @ q)
        if left > length * 1e-17:
            basis.append(q / left)
        last = left / length
    rest = d.astype(np.longdouble)
    tss = rest @ rest
    for _ in range(3):
        for other in basis[:-1]:
            rest = rest - other * (other @ rest)
    z = basis[-1] @ rest
    rest = rest - basis[-1] * z
    ssr = rest @ rest
    statistic = z / np.sqrt(ssr / (d.size - len(basis))) if ssr > 0 else np.longdouble("nan")
    return float(statistic), float(ssr / tss), float(last)


def aics(y, regression, most):
    """The AIC of each lag, over the same rows, as statsmodels chooses by."""
    found = {}
    for lags in range(most + 1):
        d, x = columns(y, lags, regression, most)
        x = np.column_stack(x)
        coefficients = np.linalg.lstsq(x / np.linalg.norm(x, axis=0), d, rcond=None)[0]
        rest = d - (x / np.linalg.norm(x, axis=0)) @ coefficients
        found[lags] = d.size * (math.log(2 * math.pi) + math.log(rest @ rest / d.size) + 1) + 2 * x.shape[1]
    return found


# Comparison


class Case:
    """A series by its steps, with the windows of it that were looked at."""

    def __init__(self, name, steps):
        self.name, self.steps, self.subjects = name, steps, {}

    def subject(self, at_ms):
        if at_ms not in self.subjects:
            self.subjects[at_ms] = Subject(window(self.steps, at_ms))
        return self.subjects[at_ms]


class Verdict:
    """What was compared of one series."""

    def __init__(self, name):
        self.name, self.misses, self.exceptions = name, [], []
        self.worst, self.count = {}, collections.Counter()

    def miss(self, what, got, want):
        self.misses.append(f"{self.name}: {what}: got {got}, want {want}")

    def number(self, what, got, want, scale=None):
        """One value; of a list each. What is not known is `null`. The scale is what a difference is measured in."""
        kind = what.rsplit(" ", 1)[-1]
        most, of = TOLERANCES[kind]
        if isinstance(want, (list, np.ndarray)):
            if not isinstance(got, list) or len(got) != len(want):
                self.miss(what, f"{len(got or [])} values", len(want))
                return
            got = [math.nan if value is None else value for value in got]
        got = np.atleast_1d(np.asarray(math.nan if got is None else got, float))
        want = np.atleast_1d(np.asarray(want, float))
        unknown = np.isnan(got) != np.isnan(want)
        if unknown.any():
            at = int(np.argmax(unknown))
            self.miss(f"{what}[{at}]", got[at], want[at])
            return
        units = np.maximum(np.abs(want), np.finfo(float).tiny) if of == RELATIVE else np.ones(want.size)
        off = np.abs(got - want) / (units if scale is None else scale)
        off[np.isnan(want)] = 0
        at = int(np.argmax(off))
        self.count[kind] += off.size
        self.worst[kind] = max(self.worst.get(kind, (0, "")), (off[at], f"{self.name} {what}"))
        if not off[at] <= most:
            self.miss(f"{what}[{at}]", got[at], want[at])

    def same(self, what, got, want):
        if got != want:
            self.miss(what, got, want)


def judge_adf(verdict, subject, regression, got):
    """Holds a test, its names with `adf_`, against `adfuller`."""
    where = f"{regression} adf_"
    if subject.is_constant:
        verdict.same(f"{where}status", got["adf_status"], "constant")
        return
    y = subject.of(regression)
    want = subject.test(regression)
    if got["adf_status"] != "ok":
        _, rest, level = exact(y, want[2], regression)
        is_exact = {"perfect_fit": rest < 1e-20, "degenerate_level": level < 1e-11}.get(got["adf_status"], False)
        if not is_exact:
            verdict.miss(f"{where}status", got["adf_status"], f"ok; of the squares {rest} are left")
        return
    if got["adf_used_lag"] != want[2]:
        by_lag = aics(y, regression, len(y) // 2 if len(y) < 60 else math.ceil(12 * (len(y) / 100) ** 0.25))
        gap = by_lag.get(got["adf_used_lag"], math.inf) - by_lag[want[2]]
        if abs(gap) > AIC_GAP_MIN:
            verdict.miss(f"{where}used_lag", got["adf_used_lag"], f"{want[2]}, whose AIC is {gap} less")
            return
        verdict.exceptions.append(f"{where}used_lag {got['adf_used_lag']} for {want[2]}, the AICs differ by {gap:.1e}")
        want = adfuller(y, got["adf_used_lag"], regression, None, result_object=False)
    statistic, p_value, used_lag, nobs, critical = want[:5]
    most = TOLERANCES["adf_statistic"][0]
    if abs(got["adf_statistic"] - statistic) > most * abs(statistic):
        right, _, _ = exact(y, used_lag, regression)
        ours, theirs = abs(got["adf_statistic"] - right), abs(statistic - right)
        if ours <= most * abs(right) and ours < theirs:
            verdict.exceptions.append(
                f"{where}statistic: statsmodels is off by {theirs / abs(right):.1e}, Tidewatch by {ours / abs(right):.1e}"
            )
            statistic, p_value = right, mackinnonp(right, regression=regression, N=1)
    verdict.number(f"{where}statistic", got["adf_statistic"], statistic)
    verdict.number(f"{regression} adf_p_value", got["adf_p_value"], p_value)
    verdict.number(f"{regression} adf_nobs", got["adf_nobs"], nobs)
    verdict.number(f"{regression} adf_used_lag", got["adf_used_lag"], used_lag)
    for level in (1, 5, 10):
        name = f"{regression} adf_critical_{level}"
        verdict.number(name, got[name.split()[-1]], critical[f"{level}%"])


def judge_row(verdict, case, row):
    """Holds the published row of a series against statsmodels, over the window that the row names."""
    subject = case.subject(row["at_ms"])
    verdict.number("steps", row["steps"], subject.n)
    gap_ratio = 1 - subject.n / subject.grid.size
    verdict.number("gap_ratio", row["gap_ratio"], gap_ratio)
    verdict.same("transform", row["transform"], "rate" if verdict.name.endswith("_total") else "raw")
    verdict.number("mean", row["mean"], subject.shift, max(abs(subject.shift), subject.sd) or 1)
    verdict.number("variance", row["variance"], subject.variance)
    status = "gaps" if gap_ratio > 0.2 else "constant" if subject.is_constant else "ok"
    verdict.same("status", row["status"], status)
    judge_adf(verdict, subject, "c", row)
    if status != "ok":
        verdict.same("acf", row["acf"], [])
        verdict.same("verdicts", [row["stationary"], row["autocorrelated"]], [None, None])
        return
    lags = min(int(10 * math.log10(subject.n)), LAGS_MAX)
    verdict.number("acf", row["acf"], acf(subject.y, nlags=lags, fft=False, result_object=False))
    lags = min(10, subject.n // 5)
    test = acorr_ljungbox(subject.y, lags=[lags])
    verdict.number("ljung_box_lags", row["ljung_box_lags"], lags)
    statistic = test["lb_stat"].iloc[0]
    verdict.number("ljung_box_statistic", row["ljung_box_statistic"], statistic, max(1, statistic))
    p_value = test["lb_pvalue"].iloc[0]
    verdict.number("ljung_box_p_value", row["ljung_box_p_value"], p_value)
    verdict.same("autocorrelated", row["autocorrelated"], bool(p_value < 0.05))
    if row["adf_status"] == "ok":
        verdict.same("stationary", row["stationary"], bool(row["adf_p_value"] < 0.05))


def judge_live(verdict, case, answers):
    """Holds what is computed on request against statsmodels, over the window up to the newest step that is closed."""
    at_ms = max(case.steps) * STEP_MS
    for path, answer in answers.items():
        verdict.same(f"{path} at_ms", answer["at_ms"], at_ms)
    subject = case.subject(at_ms)
    for path, answer in answers.items():
        kind, _, query = path.partition("?")
        query = dict(urllib.parse.parse_qsl(query))
        verdict.number(f"{path} steps", answer["steps"], subject.n)
        verdict.number(f"{path} gap_ratio", answer["gap_ratio"], 1 - subject.n / subject.grid.size)
        if kind == "acf":
            judge_acf(verdict, path, subject, answer)
        elif kind == "adf":
            verdict.same(f"{path} regression", answer["regression"], query["regression"])
            judge_adf(verdict, subject, query["regression"], {f"adf_{key}": value for key, value in answer.items()})
        else:
            judge_decomposition(verdict, path, subject, at_ms, query, answer)


def judge_acf(verdict, path, subject, answer):
    if subject.is_constant:
        verdict.same(f"{path} acf", set(answer["acf"]), {None})
        return
    lags = subject.n - 1
    want, interval, statistics, p_values = acf(
        subject.y, nlags=lags, fft=False, qstat=True, alpha=0.05, result_object=False
    )
    verdict.number(f"{path} acf", answer["acf"], want)
    verdict.number(f"{path} band", answer["band"], (interval[:, 1] - interval[:, 0]) / 2)
    verdict.number(f"{path} ljung_box_statistic", answer["ljung_box_statistic"], statistics, np.maximum(1, statistics))
    verdict.number(f"{path} ljung_box_p_value", answer["ljung_box_p_value"], p_values)


def judge_decomposition(verdict, path, subject, at_ms, query, answer):
    rows, n = answer["data"], subject.grid.size
    period = answer["period_steps"]
    if "period" in query:
        verdict.same(f"{path} period_steps", period, 60)
    verdict.same(f"{path} times", [row["at_ms"] for row in rows], [at_ms - (n - 1 - i) * STEP_MS for i in range(n)])
    verdict.number(f"{path} value", [row["value"] for row in rows], subject.grid)
    here = np.flatnonzero(~np.isnan(subject.grid))
    largest = np.abs(subject.x).max()
    sd = subject.sd or 1.0
    # What is told with its offset is rounded to it: a trend, and what was put into gaps.
    rounding = ROUNDINGS * np.finfo(float).eps / TOLERANCES["trend"][0]
    parts_of = sd + (rounding * largest if subject.n < n else 0)
    of = {"trend": sd + rounding * largest, "seasonal": parts_of, "residual": parts_of, "strength": 1.0}
    is_product = query.get("model") == "multiplicative"
    if is_product:
        filled = np.interp(np.arange(n), here, subject.x)
        parts = seasonal_decompose(filled, model="multiplicative", period=period)
        unit, offset = 1.0, 0.0
        # The parts are near 1 and rounded to that, however little they vary.
        spread = sd / abs(subject.shift)
        of["seasonal"] = of["residual"] = spread + rounding
        of["strength"] = 1 + ROUNDINGS * np.finfo(float).eps / spread / TOLERANCES["seasonal_strength"][0]
    else:
        filled = np.interp(np.arange(n), here, subject.y)
        if query["method"] == "stl":
            parts = STL(filled, period=period, seasonal=7).fit()
        else:
            parts = seasonal_decompose(filled, model="additive", period=period)
        unit, offset = subject.scale, subject.shift
    want = {"trend": parts.trend / unit + offset, "seasonal": parts.seasonal / unit, "residual": parts.resid / unit}
    for part, values in want.items():
        verdict.number(f"{path} {part}", [row[part] for row in rows], values, of[part])
    if subject.is_constant:
        return
    whole = ~np.isnan(parts.resid)
    join = np.log if is_product else np.asarray
    rest = join(parts.resid[whole])
    for strength, part in (("seasonal", parts.seasonal), ("trend", parts.trend)):
        both = np.var(join(part[whole]) + rest, ddof=1)
        if both < 1e-20 * np.var(join(filled), ddof=1):
            # All of it is rounding.
            continue
        want = max(0.0, 1 - np.var(rest, ddof=1) / both)
        verdict.number(f"{path} {strength}_strength", answer[f"{strength}_strength"], want, of["strength"])


def paths(number, case, row):
    """What is asked of a series beside its row; of the three tests one, for each takes statsmodels a tenth of a second."""
    subject = case.subject(max(case.steps) * STEP_MS)
    asked = [f"acf?lags={min(subject.n, DAY) - 1}", "adf?regression=" + ["ct", "n", "c"][number % 3]]
    if subject.grid.size >= 120:
        asked += ["decomposition?method=classical&period=1h", "decomposition?method=stl&period=1h"]
        if subject.x.min() > 0:
            asked.append("decomposition?method=classical&model=multiplicative&period=1h")
    if row and row["period_seconds"] and row["period_seconds"] <= 6 * 3_600:
        asked += ["decomposition?method=classical", "decomposition?method=stl"]
    return asked


def ask(url, path):
    server = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(server.hostname, server.port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"GET {path}: {answer.status} {text.decode()}")
    return json.loads(text)


def rows(url):
    found, cursor = {}, None
    while True:
        page = ask(url, "/api/v1/profiles?limit=1000" + (f"&cursor={urllib.parse.quote(cursor)}" if cursor else ""))
        found.update((row["name"], row) for row in page["data"])
        cursor = page.get("next")
        if not cursor:
            return found


def nudges(row, answers):
    """Answers with one value changed, by ten times what it may be off, and what that value is."""

    def nudged(value, kind, scale=1.0):
        most, of = TOLERANCES[kind]
        return value + 10 * most * (abs(value) if of == RELATIVE else max(abs(value), scale)) if most else value + 1

    for name, value in row.items():
        if name in ("autocorrelated", "stationary"):
            yield f"row {name}", row | {name: not value}, answers
        elif name in ("status", "adf_status", "transform"):
            yield f"row {name}", row | {name: "perfect_fit" if name == "adf_status" else "other"}, answers
        elif name == "acf":
            yield "row acf", row | {name: value[:20] + [nudged(value[20], name)] + value[21:]}, answers
            yield "row acf", row | {name: value[:-1]}, answers
        elif name == "at_ms":
            yield "row at_ms", row | {name: value - STEP_MS}, answers
        elif name in TOLERANCES and name not in ("seasonal", "seasonal_strength", "trend_strength"):
            yield f"row {name}", row | {name: nudged(value, name)}, answers
    for path, answer in answers.items():
        for name, value in answer.items():
            kind = f"adf_{name}" if f"adf_{name}" in TOLERANCES else name
            if name == "data":
                for part in ("value", "trend", "seasonal", "residual"):
                    changed = copy.deepcopy(value)
                    scale = math.sqrt(row["variance"]) + abs(row["mean"])
                    changed[700][part] = nudged(changed[700][part], part, scale)
                    yield f"{path} {part}", row, answers | {path: answer | {name: changed}}
            elif kind in TOLERANCES:
                changed = copy.deepcopy(value)
                if isinstance(value, list):
                    changed[-1] = nudged(changed[-1], kind)
                else:
                    changed = nudged(changed, kind)
                yield f"{path} {name}", row, answers | {path: answer | {name: changed}}
            elif name == "at_ms":
                yield f"{path} {name}", row, answers | {path: answer | {name: value + STEP_MS}}


def unnoticed(case, row, answers):
    """What could be changed in the answers about a series, or in one of its samples, without being missed; how many tries."""
    found, tries = [], 0
    for what, other_row, other_answers in nudges(row, answers):
        verdict = Verdict(case.name)
        judge_row(verdict, case, other_row)
        judge_live(verdict, case, other_answers)
        tries += 1
        if not verdict.misses:
            found.append(what)
    step = sorted(case.steps)[len(case.steps) // 2]
    other = Case(case.name, case.steps | {step: case.steps[step] * (1 + 1e-9)})
    verdict = Verdict(case.name)
    judge_row(verdict, other, row)
    if not verdict.misses:
        found.append("a step")
    return found, tries + 1


def judge(url, number, name, at_ms, values, row, is_nudged):
    """What was compared of one series; in a process of its own."""
    warnings.simplefilter("ignore")
    case, verdict = Case(name, resample(name, at_ms, values)), Verdict(name)
    answers = {path: ask(url, f"/api/v1/profiles/{name}/{path}") for path in paths(number, case, row)}
    if row is not None:
        judge_row(verdict, case, row)
    elif len(case.steps) >= 66:
        # It is evaluated every five minutes; its first row is that of an evaluation with 60 steps.
        verdict.miss("row", None, f"a row of {len(case.steps)} steps")
    judge_live(verdict, case, answers)
    return verdict, unnoticed(case, row, answers) if is_nudged else ([], 0)


def compare(url, path, series_min):
    print(f"statsmodels {statsmodels.__version__}, numpy {np.__version__}")
    if statsmodels.__version__ != VERSION:
        raise SystemExit(f"statsmodels must be {VERSION}")
    series, published = read(path), rows(url)
    # Of the first that is asked everything.
    nudged = next((name for name in series if name == "hourly_1"), None)
    with concurrent.futures.ProcessPoolExecutor(max_workers=2) as pool:
        jobs = [
            pool.submit(judge, url, number, name, *samples, published.get(name), name == nudged)
            for number, (name, samples) in enumerate(series.items())
        ]
        done = [job.result() for job in jobs]
    verdicts = [verdict for verdict, _ in done]
    misses = [miss for verdict in verdicts for miss in verdict.misses]
    exceptions = [f"{verdict.name}: {why}" for verdict in verdicts for why in verdict.exceptions]
    counts = sum((verdict.count for verdict in verdicts), collections.Counter())
    with_row = sum(name in published for name in series)
    print(f"{len(series)} series compared, {with_row} with a row; values, the worst difference, and where:")
    for kind, (most, of) in TOLERANCES.items():
        worst = max((verdict.worst.get(kind, (0, "")) for verdict in verdicts), default=(0, ""))
        print(f"  {kind:20} {counts[kind]:8} {worst[0]:9.1e} ({of}, at most {most:.1e})  {worst[1]}")
    print(f"{len(exceptions)} exceptions, at most {EXCEPTIONS_MAX}:")
    for exception in exceptions:
        print(f"  {exception}")
    for unseen, tries in (nudge for _, nudge in done if nudge[1]):
        print(f"{tries} values of {nudged} were changed in turn; {len(unseen)} changes passed {unseen}")
        misses += [f"nobody noticed that {what} was changed" for what in unseen]
    if len(series) < series_min:
        misses.append(f"{len(series)} series, {series_min} are wanted")
    if len(exceptions) > EXCEPTIONS_MAX:
        misses.append(f"{len(exceptions)} exceptions")
    for miss in misses[:100]:
        print(f"MISS {miss}")
    print(f"{len(misses)} misses")
    return 1 if misses else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    match sys.argv[1:]:
        case ["generate", file_path]:
            generate(file_path)
        case ["compare", server_url, file_path, least]:
            sys.exit(compare(server_url, file_path, int(least)))
        case _:
            sys.exit(__doc__)
