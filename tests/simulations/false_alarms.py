"""How many tables without any effect tell rows apart: Table 1 (seven baselines, three other rows, five sets and their average)
and an ablation (seven variants against MGSR, two sets and their average).

    python -m tests.simulations.false_alarms [FOLDER OF EVALUATIONS]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mgsr.tables.decisions import ALPHA, AgainstBest, Comparison
from mgsr.tables.seed_variance import SquaredErrors
from mgsr.tables.statistics import holm
from tests.simulations.rouge_like import SMALL_SETS, Floats, Population, chosen_population

PATTERNS, CHUNK = 10_000, 10
BASELINES, OTHERS, VARIANTS = 7, 3, 7
SETS = list(SMALL_SETS.values())
Question = tuple[str, int, int]  # what is told apart, row, column
Answers = dict[Question, "Result | AgainstBest"]


@dataclass(frozen=True)
class Result(Comparison):
    """A comparison of which only effect and p-value are known."""

    known_effect: float = 0.0
    known_p: float = 1.0
    effect = property(lambda self: self.known_effect)
    p = property(lambda self: self.known_p)


def p_values(scores: Sequence[Floats], pairs: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Scores [tables, systems, seeds, prompts] of each set -> effects and p-values [tables, pairs, sets + 1] as
    `decisions.compare` gives them, the average last; all tables share their patterns of signs."""
    sums, effects, errors, by_seed = [], [], [], []
    for part in scores:
        differences = part[:, pairs[:, 0]] - part[:, pairs[:, 1]]
        seeds, prompts = differences.shape[2:]
        means = differences.mean(axis=2)
        signs = generator.choice(np.float32([-1, 1]), (PATTERNS, prompts))
        sums.append(signs @ means.reshape(-1, prompts).T.astype(np.float32) / prompts)
        effects.append(means.mean(axis=2))
        if seeds > 1:
            by_seed.append(differences.mean(axis=3))
            noise = differences - means[:, :, None] - by_seed[-1][..., None] + effects[-1][..., None, None]
            residual = (noise**2).sum(axis=(2, 3)) / ((seeds - 1) * (prompts - 1) * prompts * seeds)
            errors.append((means.var(axis=2, ddof=1) / prompts, residual, prompts - 1))
    sums.append(np.mean(sums, axis=0))
    effects.append(np.mean(effects, axis=0))
    p = np.stack([_beyond(*pair) for pair in zip(sums, effects, strict=True)], axis=2)
    if seeds > 1:
        squares = [error[0] / len(scores) ** 2 for error in errors]
        freedom = sum(squares) ** 2 / sum(one**2 / error[2] for one, error in zip(squares, errors, strict=True))
        errors.append((sum(squares), sum(error[1] for error in errors) / len(scores) ** 2, freedom))
        by_seed.append(np.mean(by_seed, axis=0))
        for place, (prompt, residual, degrees) in enumerate(errors):
            seed = by_seed[place].var(axis=2, ddof=1) / seeds
            test = SquaredErrors(seed, prompt, residual, np.broadcast_to(degrees, seed.shape), seeds)
            p[..., place] = np.maximum(p[..., place], test.p(effects[place]))
    return np.stack(effects, axis=2), p


def _beyond(sums: Floats, effects: Floats) -> Floats:
    share = (np.abs(sums) >= np.abs(effects.reshape(-1)) - 1e-4).sum(axis=0) + 1  # single precision: ties are near
    return share.reshape(effects.shape) / (PATTERNS + 1)


def simulate(population: Population, sets: Sequence[int], systems: int, pairs: Floats, tables: int, seeds: int = 1,
             seed_variance: float = 0.0, lead: float = 0.0) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Means [tables, systems, sets + 1], effects and p-values [tables, pairs, sets + 1].

    Several seeds of a system share half of each score. `seed_variance`: of a difference by training seed, over that by prompt,
    both of the average over sets. `lead`: by which the last system is better.
    """
    generator, chunks = np.random.default_rng([systems, seeds, int(10 * seed_variance)]), []
    for _ in range(tables // CHUNK):
        scores = [population(generator, CHUNK, systems * (seeds + 1), rows) for rows in sets]
        scores = [part.reshape(CHUNK, systems, seeds + 1, -1) for part in scores]
        scores = [(part[:, :, 1:] + part[:, :, :1]) / 2 if seeds > 1 else part[:, :, :1] for part in scores]
        by_prompt = sum(np.var(part[:, 0] - part[:, 1]) / part.shape[3] for part in scores) / len(sets) ** 2
        shifts = generator.normal(0, np.sqrt(seed_variance * by_prompt / 2), (CHUNK, systems, seeds, 1))
        shifts[:, -1] += lead
        scores = [part + shifts for part in scores]
        means = np.stack([part.mean(axis=(2, 3)) for part in scores], axis=2)
        means = np.concatenate([means, means.mean(axis=2, keepdims=True)], axis=2)
        chunks.append((means, *p_values(scores, pairs, generator)))
    means, effects, p = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return means, effects, p


def corrected(family: Mapping[Question, Result | AgainstBest]) -> Answers:
    adjusted = holm([one.p for one in family.values()])
    return {key: Result(None, None, (), one.effect, p) for (key, one), p in zip(family.items(), adjusted, strict=True)}


def table1(means: Floats, effects: Floats, p: Floats) -> dict[str, Answers]:
    """One table's answers by rule. Means [systems, columns], effects and p-values [systems, systems, columns]; baselines are
    the first systems, the average is the last column."""
    systems, columns = means.shape

    def result(row: int, other: int, column: int) -> Result:
        return Result(None, None, (), float(effects[row, other, column]), float(p[row, other, column]))

    best, rest, average = means[:BASELINES].argmax(axis=0), range(BASELINES, systems), columns - 1
    before = {}
    for row in range(systems):
        cells = {("row", row, c): result(row, int(best[c]), c) for c in range(columns) if row != best[c]}
        before |= cells | corrected({key: one for key, one in cells.items() if key[2] != average})
    cells = {
        ("row", row, c): AgainstBest(tuple(result(row, one, c) for one in range(BASELINES)))
        for row in rest
        for c in range(columns)
    }
    for c in range(columns):
        top = int(means[:, c].argmax())
        cells["bold", top, c] = AgainstBest(tuple(result(top, one, c) for one in range(systems) if one != top))
    pairs = [(row, one) for row in range(systems) for one in range(row)]
    return {
        "best baseline, Holm over sets (before)": before,
        "best baseline, Holm over the table": corrected(
            {("row", row, c): result(row, int(best[c]), c) for row in range(systems) for c in range(columns) if row != best[c]}
        ),
        "against the best, Holm over the table": corrected(cells),
        "each baseline, Holm over the table": corrected(
            {(str(one), row, c): result(row, one, c) for row, one in pairs if row >= BASELINES > one for c in range(columns)}
        ),
        "every pair of rows, Holm over the table": corrected(
            {(str(one), row, c): result(row, one, c) for row, one in pairs for c in range(columns)}
        ),
    }


def ablation(effects: Floats, p: Floats) -> dict[str, Answers]:
    """Effects and p-values [variants, columns] of variants minus MGSR."""
    variants, columns = p.shape
    cells = {
        ("row", row, c): Result(None, None, (), float(effects[row, c]), float(p[row, c]))
        for row in range(variants)
        for c in range(columns)
    }
    before = dict(cells)
    for row in range(variants):
        before |= corrected({key: one for key, one in cells.items() if key[1] == row and key[2] != columns - 1})
    return {"Holm over sets (before)": before, "Holm over the table": corrected(cells)}


def decided(answers: Answers, row: int | None = None, column: int | None = None) -> bool:
    """Anything at all; or the row above every baseline in this column."""
    if row is None:
        return any(one.p <= ALPHA for one in answers.values())
    cells = [
        one for (kind, r, c), one in answers.items() if (r, c) == (row, column) and kind in ("row", *map(str, range(BASELINES)))
    ]
    return bool(cells) and all(one.p <= ALPHA and one.effect > 0 for one in cells)


def report(title: str, tables: Sequence[dict[str, Answers]], rules: Sequence[int], **where: int) -> None:
    names = list(tables[0])
    for name in (names[i] for i in rules):
        print(f"{title:48s} {name:42s} {100 * np.mean([decided(table[name], **where) for table in tables]):5.1f} %", flush=True)


def main(tables: int = 1600) -> None:
    title, population = chosen_population()
    systems = BASELINES + OTHERS
    pairs = np.array([(i, j) for i in range(systems) for j in range(i)])
    variants = np.array([(i, VARIANTS) for i in range(VARIANTS)])

    def tables_1(**settings: float) -> list[dict[str, Answers]]:
        means, effects, p = simulate(population, SETS, systems, pairs, **settings)
        square = np.zeros((2, len(means), systems, systems, means.shape[2]))
        square[:, :, pairs[:, 0], pairs[:, 1]] = effects, p
        square[:, :, pairs[:, 1], pairs[:, 0]] = -effects, p
        return [table1(*one) for one in zip(means, *square, strict=True)]

    print(f"{title}, sets of {', '.join(map(str, SETS))} prompts; tables with a false alarm")
    report(f"Table 1, one seed, {tables} tables", tables_1(tables=tables), range(5))
    _, effects, p = simulate(population, SETS[:2], VARIANTS + 1, variants, tables)
    report(f"ablation, one seed, {tables} tables", [ablation(*one) for one in zip(effects, p, strict=True)], range(2))
    for seeds, variance in ((3, 0.0), (3, 1.0), (3, 3.0), (3, 10.0), (5, 3.0), (5, 10.0)):
        count = tables // 5
        report(
            f"Table 1, {seeds} seeds, variance {variance:g}, {count} tables",
            tables_1(tables=count, seeds=seeds, seed_variance=variance),
            [2],
        )
    print("power: the last row leads by 5 points; it is told above every baseline on average")
    report(
        f"Table 1, one seed, {tables // 4} tables",
        tables_1(tables=tables // 4, lead=5.0),
        range(5),
        row=systems - 1,
        column=len(SETS),
    )


if __name__ == "__main__":
    main()
