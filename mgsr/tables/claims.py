"""What the paper claims, against the runs at hand: effect, interval and verdict of each claim, for each family and protocol.

A claim names one method and those that it should be above; it holds if it is above all of them. An effect is positive where it
speaks for the claim. Claims are judged by the metric that ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path

import numpy as np

from mgsr.config.base import SECOND_ROW
from mgsr.config.table_specs import ClaimsSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import Divergences
from mgsr.evaluation.intervals import Numbers, percentile_bounds, two_sided_tail
from mgsr.tables.render import FAMILY, MISSING, Block, CsvLine, Table, document, metric_title, number, write_files
from mgsr.tables.results import MethodResult, TableResults, load_results
from mgsr.tables.rows import ALPHA
from mgsr.tables.statistics import holm, rows_to_decide

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this sample size", "not run"
MORE_SEEDS = "more training seeds"
PAIR = ("dolly", "self_instruct")  # the sets of the paper's Tables 2 and 3
UNREVISED = ("mgsr_on_policy_unrevised", "mgsr_without_scrg", "mgsr_off_policy_unrevised")
EXPOSURE_PROTOCOL = "plain sampling"
HEADINGS = {EXPOSURE_PROTOCOL: "exposure bias, plain sampling"}
HEADER = (FAMILY, "claim", "compared with", "effect", "95 % interval", "gain %", "prompts", "verdict", "prompts to decide")


@dataclass(frozen=True)
class Claim:
    """The claim that `method` is above `factor` times each method of `against`, and above their second rows (SFT weight 0),
    on the mean over `sets` (None: all sets of the table)."""

    key: str
    text: str
    table: str
    method: str
    against: tuple[str, ...]
    sets: tuple[str, ...] | None = None
    factor: float = 1.0


CLAIMS = (
    Claim("above_baselines", "MGSR is above every baseline on average", "table1", "mgsr",
          ("sft", "kd", "seqkd", "imitkd", "gkd", "minillm", "distillm")),
    Claim("scrg_adds", "SCRG adds", "table2", "reverse_kl_scrg", ("reverse_kl_student",), PAIR),
    Claim("dac_kl_adds", "DAC-KL adds", "table2", "mgsr_without_span", ("reverse_kl_scrg",), PAIR),
    Claim("span_adds", "span consistency adds", "table2", "mgsr", ("mgsr_without_span",), PAIR),
    Claim("above_losses", "DAC-KL is above seven other losses", "table3c", "mgsr",
          ("mgsr_forward_kl", "mgsr_without_dac_kl", "mgsr_symmetric_kl", "mgsr_generalized_jsd", "mgsr_total_variation",
           "mgsr_skew_reverse_kl", "mgsr_skew_forward_kl"), PAIR),
    Claim("above_generation", "SCRG is above other generation strategies", "table3a", "mgsr", UNREVISED, PAIR),
    Claim("above_generation_off_policy", "off-policy SCRG is above other generation strategies", "table3a",
          "mgsr_off_policy", UNREVISED, PAIR),
    Claim("three_passes_add", "three passes of SCRG add to one", "table4c", "mgsr_three_passes", ("mgsr",)),
    Claim("five_passes_add", "five passes of SCRG add to three", "table4c", "mgsr_five_passes", ("mgsr_three_passes",)),
    Claim("gain_over_sft", "MGSR is at least 15 % above the SFT student", "table1", "mgsr", ("sft",), factor=1.15),
)  # fmt: skip
EXPOSURE = Claim("less_exposure_bias", "MGSR has less exposure bias", "table4a", "mgsr", ("minillm", "distillm"))

NOTES = (
    "An effect is in points of {metric}, a mean over the sets of the paper's table, and positive where it speaks for the "
    "claim. Of several methods to be above, the hardest one is shown; the CSV has all. The claim of 15 % counts points above "
    "1.15 times the SFT student.",
    f"A claim `{HOLDS}` where the method is above every method compared with: the 95 % interval is above 0 and p is below "
    f"{ALPHA}. It `{FAILS}` where the method is below one of them (the interval is below 0, and p is below {ALPHA} after "
    "Holm's correction over them) or equal in every answer. Else it is undecided. Nothing is corrected over claims, so one "
    "verdict in twenty may be chance.",
    "Prompts to decide are counted over all sets. With a chance of 0.8, so many would put the method above every method "
    "compared with, or below the first of them, if the true effects are those seen.",
    "Effects on ExAccErr are the percentage points by which MGSR's is lower, at lengths that samples reach; their intervals "
    "are over prompts alone.",
)
ONE_SEED = "There is one training seed: verdicts speak of the models trained here and cannot tell what other seeds would give."


# --- findings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One comparison of a claim; None where it is not defined. `gain` is in per cent of the other's score, `needed` counts the
    prompts that would decide."""

    against: str = ""
    title: str = ""
    sets: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    prompts: int = 0
    p: float | None = None
    gain: float | None = None
    needed: int | None = None


def score_findings(claim: Claim, results: TableResults, family: str, protocol: str) -> list[Finding]:
    """Every comparison of a claim that can be made."""
    methods, findings = results.of_family(family), list[Finding]()
    sets = [name for name in results.sets if claim.sets is None or name in claim.sets]
    if claim.method not in methods or not sets:
        return []
    method = methods[claim.method]
    for other in (other for name, other in methods.items() if name.removesuffix(SECOND_ROW) in claim.against):
        comparison = method.compare(other, results.metric, sets, protocol, claim.factor)
        ours, theirs = (
            np.mean([system.scores(results.metric, name, protocol).mean() for name in sets]) for system in (method, other)
        )
        gain = float(100 * (ours / theirs - 1)) if theirs else None
        interval = comparison.interval
        findings.append(
            Finding(other.method, other.title, ", ".join(sets), interval.difference, interval.low, interval.high, interval.rows,
                    comparison.p, gain, comparison.rows_to_decide)
        )  # fmt: skip
    return findings


def exposure_findings(methods: Mapping[str, MethodResult], in_domain: str) -> list[Finding]:
    """How far MGSR's ExAccErr is below that of each other method, at each length. `in_domain` is the title of the set that
    it was measured on."""
    if EXPOSURE.method not in methods:
        return []
    findings = []
    lengths = [int(length) for length in (methods[EXPOSURE.method].runs[0].exposure or {})["lengths"]]
    runs = {name: [run.divergences() for run in method.runs] for name, method in methods.items()}
    ours = _excess(runs[EXPOSURE.method], lengths)
    for name in (name for name in EXPOSURE.against if name in methods):
        if any(run.ids != runs[name][0].ids for run in (*runs[name], *runs[EXPOSURE.method])):
            raise MgsrError(f"exposure bias of {name} and {EXPOSURE.method} was measured on different prompts; measure anew")
        theirs, prompts = _excess(runs[name], lengths), len(runs[name][0].ids)
        for place, length in enumerate(lengths):
            effect, draws = (theirs[part][..., place] - ours[part][..., place] for part in (0, 1))
            finding = Finding(name, methods[name].title, f"{in_domain}, length {length}")
            if np.isfinite([effect, *draws]).all():
                low, high = map(float, percentile_bounds(draws))
                finding = replace(
                    finding, effect=float(effect), low=low, high=high, prompts=prompts, p=two_sided_tail(draws),
                    needed=rows_to_decide(draws * math.sqrt(prompts), float(effect)),
                )  # fmt: skip
            findings.append(finding)
    return findings


def _excess(runs: Sequence[Divergences], lengths: list[int]) -> tuple[Numbers, Numbers]:
    """ExAccErr [lengths] and its resamples over prompts [resamples, lengths], means over training seeds."""
    values = np.mean([run.excess_error(lengths) for run in runs], axis=0)
    return values, np.mean([run.excess_error_resamples(lengths) for run in runs], axis=0)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """All comparisons of one claim for one family and protocol. `title`: of the claim's method."""

    claim: Claim
    protocol: str
    family: str
    title: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """Being above all of several needs no correction (each must hold by itself); being below one of several does. A
        comparison that is not defined (no sample of that length) takes no part."""
        tests = [(f.low, f.high, f.p) for f in self.findings if f.low is not None and f.high is not None and f.p is not None]
        if not self.findings:
            return NOT_RUN
        if tests and all(low > 0 and p < ALPHA for low, _, p in tests):
            return HOLDS
        adjusted = holm([p for *_, p in tests])
        below = any(high < 0 and p < ALPHA for (_, high, _), p in zip(tests, adjusted, strict=True))
        equal = any(finding.low == finding.high == finding.effect == 0 for finding in self.findings)
        return FAILS if below or equal else UNDECIDED

    @property
    def needed(self) -> int | None:
        """How many prompts would decide the claim if the effects seen are true. Where the claim's method is below others,
        they show it to be below the first one; else they show it to be above the last one."""
        needs = [(finding.effect, finding.needed) for finding in self.findings if finding.needed is not None]
        below = [needed for effect, needed in needs if effect is not None and effect < 0]
        return min(below) if below else max((needed for _, needed in needs), default=None)

    @property
    def hardest(self) -> Finding:
        """The comparison that speaks least for the claim; an empty one where none was made."""
        return min(self.findings, key=lambda f: math.inf if f.effect is None else f.effect, default=Finding())

    @property
    def compared(self) -> int:
        """How many of the methods that the claim names were run."""
        return len({finding.against.removesuffix(SECOND_ROW) for finding in self.findings})

    def lines(self) -> list[CsvLine]:
        """A CSV line for each comparison; the verdict is the claim's, so the same on all of them."""
        claim = self.claim
        return [
            {
                "protocol": self.protocol, "claim": claim.key, "text": claim.text, "family": self.family,
                "method": claim.method, "title": self.title, "against": finding.against, "against_title": finding.title,
                "hardest": finding == self.hardest, "compared": self.compared, "expected": len(claim.against),
                "sets": finding.sets, "effect": finding.effect, "low": finding.low, "high": finding.high, "p": finding.p,
                "gain_percent": finding.gain, "prompts": finding.prompts, "prompts_to_decide": _float(finding.needed),
                "verdict": self.verdict, "claim_prompts_to_decide": _float(self.needed),
            }
            for finding in self.findings or (self.hardest,)
        ]  # fmt: skip

    def texts(self, lone: bool) -> tuple[str, ...]:
        """The claim's row in the document, with the hardest comparison. `lone` says that there is one training seed, so that
        nothing is known of what more seeds would decide."""
        finding, prompts, expected = self.hardest, self.hardest.prompts, len(self.claim.against)
        others = f" ({self.compared} of {expected} compared)" if expected > 1 and finding.against else ""
        where = f", {finding.sets.partition(', ')[2]}" if self.claim is EXPOSURE and finding.sets else ""
        interval = MISSING if finding.low is None else f"{number(finding.low)} to {number(finding.high)}"
        decide = "–" if self.verdict in (HOLDS, FAILS) else MISSING
        if self.verdict == UNDECIDED and self.needed is not None:
            decide = f"{self.needed:,}" if self.needed > prompts else f"over {prompts:,}" if lone else MORE_SEEDS
        return (
            self.family, self.claim.text, f"{finding.title}{where}{others}" or MISSING, number(finding.effect), interval,
            number(finding.gain, 1), str(prompts), self.verdict, decide,
        )  # fmt: skip


def _float(count: int | None) -> float | None:
    return None if count is None else float(count)


def judge(tables: Mapping[str, TableResults]) -> Iterator[Judgement]:
    """Judge every claim, in the order of the paper's text. A family that the claim's table does not show is left out; where
    there is no such table, no family is."""
    families = list(dict.fromkeys(family for results in tables.values() for family in results.families))
    protocols = dict.fromkeys(protocol for results in tables.values() for protocol in results.protocols)
    for protocol, claim in (*product(protocols, CLAIMS), (EXPOSURE_PROTOCOL, EXPOSURE)):
        results = tables.get(claim.table)
        for family in results.families if results else families:
            findings, title = list[Finding](), claim.method
            if results:
                methods = results.of_family(family)
                title = methods[claim.method].title if claim.method in methods else title
                findings = (
                    exposure_findings(methods, results.title(results.sets[0]))
                    if claim is EXPOSURE
                    else score_findings(claim, results, family, protocol)
                )
            yield Judgement(claim, protocol, family, title, tuple(findings))


# --- the table --------------------------------------------------------------------------------------------------------


def claims_table(spec: ClaimsSpec, root: Path) -> Table:
    """The CSV has a line for each comparison, the document one for each claim, family and protocol."""
    tables = {table.name: load_results(table, root) for table in spec.tables}
    if not tables:
        raise MgsrError("there is no table to judge claims by; make at least one table")
    judgements = list(judge(tables))
    lone = any(len(m.runs) == 1 for results in tables.values() for m in results.methods if m.role == "student")
    blocks = tuple(
        Block(HEADINGS.get(protocol, f"protocol {protocol}"), HEADER, tuple(judgement.texts(lone) for judgement in part))
        for protocol, part in groupby(judgements, key=lambda judgement: judgement.protocol)
    )
    metric = metric_title(spec.tables[0].metrics[0])
    notes = [*(note.format(metric=metric) for note in NOTES), *([ONE_SEED] if lone else [])]
    lines = [line for judgement in judgements for line in judgement.lines()]
    return Table(lines, document(spec, "The paper's claims", blocks, notes))


def write_claims(root: Path, name: str) -> None:
    """Write ROOT/tables/claims.csv, .md and .tex from ROOT/plan/claims.json."""
    write_files(claims_table(read_plan(root, name, ClaimsSpec), root), root / "tables", name)
