"""What the paper claims, against the runs at hand: effect, interval and verdict of each claim, for each family and protocol.

A claim names one method and those that it should be above; it holds if it is above all of them. An effect is positive where it
speaks for the claim. Claims are judged by the metric that ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise, product
from pathlib import Path

import numpy as np

from mgsr.config.base import SECOND_ROW
from mgsr.config.table_specs import ClaimsSpec, read_plan
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import Divergences
from mgsr.evaluation.intervals import Numbers
from mgsr.tables.baselines import BASELINES
from mgsr.tables.decisions import ALPHA, AgainstBest, Bounds, Comparison, compare, pseudo_values
from mgsr.tables.legends import legend
from mgsr.tables.power import PromptsNeeded, design, detectable, prompts_to_decide
from mgsr.tables.render import (
    FAMILY,
    MISSING,
    Block,
    CsvLine,
    Table,
    bounds_text,
    document,
    metric_title,
    number,
    write_files,
)
from mgsr.tables.results import MethodResult, TableResults, load_results

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this sample size", "not run"
NOT_ALL, NOT_MET, OF_THESE = "not all compared", "precondition not met", " for these trained models"
METHOD_SEEDS = 3  # training seeds from which on a verdict speaks of methods
MET, UNKNOWN = "met", "not checked"
RESULT = "scrg_hurts"  # the one warning that is a result and no failure signature
MORE_SEEDS = "more training seeds"
AS_PRINTED = "mgsr_as_printed"
PAIR = ("dolly", "self_instruct")  # the sets of the paper's Tables 2 and 3
UNREVISED = ("mgsr_on_policy_unrevised", "mgsr_without_scrg", "mgsr_off_policy_unrevised")
EXPOSURE_PROTOCOL = "plain sampling"
HEADINGS = {EXPOSURE_PROTOCOL: "exposure bias, plain sampling"}
HEADER = (
    FAMILY, "claim", "compared with", "effect", "95 % interval", "gain %", "prompts", "training seeds", "preconditions",
    "verdict", "detectable", "prompts to decide",
)  # fmt: skip


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

    def sets_of(self, results: TableResults) -> list[str]:
        return [name for name in results.sets if self.sets is None or name in self.sets]

    def others(self, methods: Mapping[str, MethodResult]) -> list[MethodResult]:
        """The methods to be above, of those that were run."""
        return [method for name, method in methods.items() if name.removesuffix(SECOND_ROW) in self.against]

    def compared(self, methods: Mapping[str, MethodResult]) -> list[MethodResult]:
        return [methods[self.method], *self.others(methods)]

    def readings(self, methods: Mapping[str, MethodResult]) -> list[Claim]:
        """The claim and, if it is about MGSR, the same about MGSR as printed, where both are rows."""
        printed = replace(self, method=AS_PRINTED, text=self.text.replace("MGSR", "MGSR as printed"))
        return [self, printed] if self.method == "mgsr" and AS_PRINTED in methods else [self]


CLAIMS = (
    Claim("above_baselines", "MGSR is above every baseline and SFT continued on average", "table1", "mgsr",
          tuple(BASELINES)),
    Claim("scrg_adds", "SCRG adds", "table2", "reverse_kl_scrg", ("reverse_kl_student",), PAIR),
    Claim("dac_kl_adds", "DAC-KL adds", "table2", "mgsr_without_span", ("reverse_kl_scrg",), PAIR),
    Claim("span_adds", "span consistency adds", "table2", "mgsr", ("mgsr_without_span",), PAIR),
    Claim("above_losses", "MGSR's DAC-KL is above seven other losses", "table3c", "mgsr",
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

# --- findings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One comparison of a claim. `comparison` is None where it is not defined, `gain` is in per cent of the other's score.
    `limit`: a further comparison in which the claim's method must not be below the other (R(l), for exposure bias)."""

    against: str
    title: str
    sets: str
    comparison: Comparison | None
    gain: float | None = None
    limit: Comparison | None = None


def score_findings(claim: Claim, results: TableResults, family: str, protocol: str) -> list[Finding]:
    """Every comparison of a claim that can be made."""
    methods, findings = results.of_family(family), list[Finding]()
    sets = claim.sets_of(results)
    if claim.method not in methods or not sets:
        return []
    method = methods[claim.method]
    for other in claim.others(methods):
        ours, theirs = (
            np.mean([system.scores(results.metric, name, protocol).mean() for name in sets]) for system in (method, other)
        )
        gain = float(100 * (ours / theirs - 1)) if theirs else None
        comparison = method.compare(other, results.metric, sets, protocol, claim.factor)
        findings.append(Finding(other.method, other.title, ", ".join(sets), comparison, gain))
    return findings


def exposure_findings(claim: Claim, methods: Mapping[str, MethodResult], in_domain: str) -> list[Finding]:
    """How far the ExAccErr of the claim's method, and its R(l), are below those of each other method, at each length.
    `in_domain` is the title of the set that they were measured on."""
    if claim.method not in methods:
        return []
    findings, method = list[Finding](), methods[claim.method]
    lengths = [int(length) for length in (method.runs[0].exposure or {})["lengths"]]
    ours = _pseudo_values(method, lengths)
    for other in claim.others(methods):
        if any(run.divergences().ids != method.runs[0].divergences().ids for run in other.runs):
            names = f"{other.method} and {claim.method}"
            raise MgsrError(f"exposure bias of {names} was measured on different prompts; measure it anew")
        gaps = _pseudo_values(other, lengths) - ours  # a method with one run is set against every seed of the other
        for place, length in enumerate(lengths):
            at_length = gaps[:, :, place]
            pair = [compare([part]) if np.isfinite(at_length).all() else None for part in at_length]
            findings.append(Finding(other.method, other.title, f"{in_domain}, length {length}", pair[0], limit=pair[1]))
    return findings


def _pseudo_values(method: MethodResult, lengths: list[int]) -> Numbers:
    """[2, training seeds, lengths, prompts]: numbers whose means over prompts are ExAccErr and R(l)."""

    def both(sums: Divergences) -> tuple[Numbers, Numbers]:
        prompts = len(sums.ids)
        excess = pseudo_values(lambda weights: sums.excess_error(lengths, weights), prompts)
        return excess, pseudo_values(lambda weights: sums.accumulated("student", lengths, weights), prompts)

    return np.moveaxis(np.array([both(run.divergences()) for run in method.runs]), 0, 1)


def preconditions(claim: Claim, tables: Mapping[str, TableResults], family: str, protocol: str) -> str:
    """`MET`, or what must hold before methods are compared and does not: the teacher is above SFT, SFT is above the floor, and
    no run compared has a failure signature. `UNKNOWN` where no table shows teacher and SFT."""
    warned = [
        f"{method.title}: {', '.join(names)}"
        for method in claim.compared(tables[claim.table].of_family(family))
        if (names := dict.fromkeys(w["name"] for run in method.runs for w in run.card["warnings"] if w["name"] != RESULT))
    ]
    for results in tables.values():
        methods, sets = results.of_family(family), claim.sets_of(results)
        teacher = next((method for method in methods.values() if method.role == "teacher"), None)
        if teacher and "sft" in methods and sets and protocol in results.protocols:
            ladder = (teacher, methods["sft"], results.floor(family))
            for higher, lower in pairwise(ladder):
                if higher.compare(lower, results.metric, sets, protocol).interval()[0] <= 0:
                    name = "the floor" if lower.role == "floor" else lower.title
                    warned.append(f"{higher.title} is not above {name}")
            capped = [results.title(name) for name in results.capped(family) if name in sets]
            warned += [f"references are cut: {', '.join(capped)}"] if capped else []
            return "; ".join(warned) or MET
    return "; ".join(warned) or UNKNOWN


# --- verdicts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """All comparisons of one claim for one family and protocol. `title`: of the claim's method. `seeds`: the fewest training
    seeds of a method compared."""

    claim: Claim
    protocol: str
    family: str
    title: str
    findings: tuple[Finding, ...]
    seeds: int = 0
    precondition: str = UNKNOWN

    @property
    def defined(self) -> list[tuple[Finding, Comparison]]:
        """A comparison that is not defined (no sample of that length) takes no part."""
        return [(finding, finding.comparison) for finding in self.findings if finding.comparison]

    @cached_property
    def answer(self) -> AgainstBest | None:
        return AgainstBest(tuple(comparison for _, comparison in self.defined)) if self.defined else None

    @property
    def verdict(self) -> str:
        if not self.findings:
            return NOT_RUN
        if self.precondition not in (MET, UNKNOWN):
            return NOT_MET
        answer, limits = self.answer, AgainstBest(tuple(finding.limit for finding in self.findings if finding.limit))
        if answer is None:
            return UNDECIDED
        equal = any(one.effect == 0 and one.interval() == (0, 0) for one in answer.comparisons)
        higher = bool(limits.comparisons) and limits.effect < 0
        if equal or (answer.p <= ALPHA and answer.effect < 0) or (higher and limits.p <= ALPHA):
            return FAILS + self.scope
        if higher or answer.p > ALPHA or answer.effect <= 0:
            return UNDECIDED
        return HOLDS + self.scope if self.compared == len(self.claim.against) else NOT_ALL

    @property
    def scope(self) -> str:
        """What follows `HOLDS` or `FAILS`: whether it speaks of methods."""
        return "" if self.seeds >= METHOD_SEEDS else OF_THESE

    @cached_property
    def needed(self) -> PromptsNeeded | None:
        return prompts_to_decide(design(self.answer.parts), self.answer.interval()) if self.answer else None

    @cached_property
    def detectable(self) -> float | None:
        return detectable(design(self.answer.parts)) if self.answer else None

    @property
    def hardest(self) -> Finding:
        """The comparison that speaks least for the claim; an empty one where none was made."""
        undefined = self.findings[0] if self.findings else Finding("", "", "", None)
        return min(self.defined, key=lambda pair: pair[1].effect, default=(undefined,))[0]

    @property
    def compared(self) -> int:
        """How many of the methods that the claim names were run."""
        return len({finding.against.removesuffix(SECOND_ROW) for finding in self.findings})

    def lines(self) -> list[CsvLine]:
        """A CSV line for each comparison; what begins with `claim_`, and the verdict, are the claim's, so the same on all."""
        claim, answer, needed, hardest = self.claim, self.answer, self.needed, self.hardest
        low, high = answer.interval() if answer else (None, None)
        whole: CsvLine = {
            "claim_effect": answer.effect if answer else None, "claim_low": low, "claim_high": high,
            "claim_p": answer.p if answer else None, "training_seeds": self.seeds, "precondition": self.precondition,
            "verdict": self.verdict, "detectable": self.detectable,
            "prompts_at_least": _float(needed.at_least) if needed else None,
            "prompts_at_most": _float(needed.at_most) if needed else None,
        }  # fmt: skip
        lines = []
        for finding in self.findings or (hardest,):
            one, limit = finding.comparison, finding.limit
            bounds: Bounds | tuple[None, None] = one.interval() if one else (None, None)
            lines.append({
                "protocol": self.protocol, "claim": claim.key, "text": claim.text, "family": self.family,
                "method": claim.method, "title": self.title, "against": finding.against, "against_title": finding.title,
                "hardest": finding is hardest, "compared": self.compared, "expected": len(claim.against),
                "sets": finding.sets, "effect": one.effect if one else None, "low": bounds[0], "high": bounds[1],
                "p": one.p if one else None, "gain_percent": finding.gain, "prompts": one.prompts if one else 0,
                "accumulated_effect": limit.effect if limit else None, "accumulated_p": limit.p if limit else None, **whole,
            })  # fmt: skip
        return lines

    def texts(self) -> tuple[str, ...]:
        """The claim's row in the document, with the hardest comparison."""
        finding, answer, expected = self.hardest, self.answer, len(self.claim.against)
        others = f" ({self.compared} of {expected} compared)" if expected > 1 and finding.against else ""
        where = f", {finding.sets.partition(', ')[2]}" if self.claim.key == EXPOSURE.key and finding.sets else ""
        decide = MISSING
        if answer and (needed := self.needed):
            decide = f"at least {needed.at_least:,}" if needed.at_most is None else f"{needed.at_least:,} to {needed.at_most:,}"
        elif answer and self.seeds > 1:
            decide = MORE_SEEDS
        return (
            self.family, self.claim.text, f"{finding.title}{where}{others}" or MISSING,
            number(answer.effect if answer else None),
            bounds_text(*answer.interval()) if answer else MISSING, number(finding.gain, 1),
            str(answer.prompts if answer else 0), str(self.seeds or MISSING), self.precondition, self.verdict,
            number(self.detectable), decide,
        )  # fmt: skip


def _float(count: int | None) -> float | None:
    return None if count is None else float(count)


def judge_claims(tables: Mapping[str, TableResults]) -> Iterator[Judgement]:
    """Judge every claim, in the order of the paper's text. A family that the claim's table does not show is left out; where
    there is no such table, no family is."""
    families = list(dict.fromkeys(family for results in tables.values() for family in results.families))
    protocols = list(dict.fromkeys(protocol for results in tables.values() for protocol in results.protocols))
    for protocol, claim in (*product(protocols, CLAIMS), (EXPOSURE_PROTOCOL, EXPOSURE)):
        results = tables.get(claim.table)
        for family in results.families if results else families:
            if results is None:
                yield Judgement(claim, protocol, family, claim.method, ())
                continue
            for reading in claim.readings(results.of_family(family)):
                yield _judgement(reading, results, tables, family, protocol, protocols[0])


def _judgement(
    claim: Claim, results: TableResults, tables: Mapping[str, TableResults], family: str, protocol: str, first: str
) -> Judgement:
    """`first`: the protocol of the preconditions of exposure bias, which has none of its own."""
    methods, exposed = results.of_family(family), claim.key == EXPOSURE.key
    title = methods[claim.method].title if claim.method in methods else claim.method
    if exposed:
        findings = exposure_findings(claim, methods, results.title(results.sets[0]))
    else:
        findings = score_findings(claim, results, family, protocol)
    if not findings:
        return Judgement(claim, protocol, family, title, ())
    seeds = min(len(method.runs) for method in claim.compared(methods))
    precondition = preconditions(claim, tables, family, first if exposed else protocol)
    return Judgement(claim, protocol, family, title, tuple(findings), seeds, precondition)


# --- the table --------------------------------------------------------------------------------------------------------


def claims_table(spec: ClaimsSpec, root: Path) -> Table:
    """The CSV has a line for each comparison, the document one for each claim, family and protocol."""
    tables = {table.name: load_results(table, root) for table in spec.tables}
    if not tables:
        raise MgsrError("there is no table to judge claims by; make at least one table")
    judgements = list(judge_claims(tables))
    blocks = tuple(
        Block(HEADINGS.get(protocol, f"protocol {protocol}"), HEADER, tuple(judgement.texts() for judgement in part))
        for protocol, part in groupby(judgements, key=lambda judgement: judgement.protocol)
    )
    metric = metric_title(spec.tables[0].metrics[0])
    lines = [line for judgement in judgements for line in judgement.lines()]
    return Table(lines, document(spec, "The paper's claims", blocks, legend("claims", metric=metric)))


def write_claims(root: Path, name: str) -> None:
    """Write ROOT/tables/claims.csv, .md and .tex from ROOT/plan/claims.json."""
    write_files(claims_table(read_plan(root, name, ClaimsSpec), root), root / "tables", name)
