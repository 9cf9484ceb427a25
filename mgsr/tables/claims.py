"""What the paper claims, against the runs at hand: effect, interval and verdict of each claim, for each family and protocol.

A claim names one method and those that it should be above; it holds if it is above all of them. An effect is positive where it
speaks for the claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgsr.config.base import SECOND_ROW
from mgsr.errors import MgsrError
from mgsr.evaluation.accumulation import Divergences, read_divergences
from mgsr.storage import read_json
from mgsr.tables.render import MISSING, Block, Document, number, write_table
from mgsr.tables.results import Group, parse_cells
from mgsr.tables.scores import ALPHA
from mgsr.tables.statistics import Interval, holm, rows_to_decide

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided at this sample size", "not run"
MORE_SEEDS = "more training seeds"
PAIR = ("dolly", "self_instruct")  # the sets of the paper's Tables 2 and 3
UNREVISED = ("mgsr_on_policy_unrevised", "mgsr_without_scrg", "mgsr_off_policy_unrevised")
EXPOSURE_PROTOCOL = "plain sampling"
HEADINGS = {EXPOSURE_PROTOCOL: "exposure bias, plain sampling"}


@dataclass(frozen=True)
class Claim:
    """`method` above `factor` times each of `against` and of their second rows (SFT weight 0), on the mean over `sets` (None:
    all of the table's)."""

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
    "Effect: points of ROUGE-L, mean over the sets of the paper's table, positive where it speaks for the claim; of several "
    "methods to be above, the hardest is shown and the CSV has all. For 15 %: points above 1.15 times the SFT student.",
    f"{HOLDS}: above every method compared with, its 95 % interval above 0 and p below {ALPHA}; {FAILS}: below one of them, "
    f"its interval below 0 and p below {ALPHA} after Holm's correction over them, or equal in every answer; else undecided. "
    "Nothing is corrected over claims: one verdict in twenty may be chance.",
    "Prompts to decide: in all sets together, with a chance of 0.8, if the true effects are those seen; above every method "
    "compared with, or below the first of them.",
    "ExAccErr: percentage points by which MGSR's is lower, at lengths that samples reach; intervals are over prompts alone.",
)
ONE_SEED = "One training seed: verdicts speak of the models trained here and cannot tell what other seeds would give."


@dataclass(frozen=True)
class Finding:
    """One comparison. None where there is none: not run, or not defined."""

    against: str
    title: str
    sets: str
    effect: float | None
    interval: Interval | None
    p: float | None
    gain: float | None  # per cent of the other's score
    needed: int | None  # prompts that would decide


def find(claim: Claim, groups: Mapping[str, Group], sets: Sequence[str], protocol: str) -> list[Finding]:
    """Every comparison of a claim that can be made."""
    method = groups.get(claim.method)
    if method is None:
        return []
    chosen = [name for name in sets if claim.sets is None or name in claim.sets]
    found = []
    for other in (group for name, group in groups.items() if name.removesuffix(SECOND_ROW) in claim.against):
        result = method.compare(other, chosen, protocol, claim.factor)
        ours, theirs = (np.mean([group.scores(name, protocol).mean() for name in chosen]) for group in (method, other))
        gain = float(100 * (ours / theirs - 1)) if theirs else None
        interval = result.interval
        found.append(
            Finding(
                other.method,
                other.title,
                ", ".join(chosen),
                interval.difference,
                interval,
                result.p,
                gain,
                result.rows_to_decide,
            )
        )
    return found


def find_exposure(groups: Mapping[str, tuple[str, list[Path]]]) -> list[Finding]:
    """MGSR's ExAccErr below each other method's, at each length; `groups`: by method, its title and its runs' summaries."""
    if EXPOSURE.method not in groups:
        return []
    found = []
    lengths = [int(length) for length in read_json(groups[EXPOSURE.method][1][0])["lengths"]]
    runs = {name: [read_divergences(path.with_name("prompts.jsonl")) for path in paths] for name, (_, paths) in groups.items()}
    ours = _excess(runs[EXPOSURE.method], lengths)
    for name in (name for name in EXPOSURE.against if name in groups):
        if any(run.ids != runs[name][0].ids for run in (*runs[name], *runs[EXPOSURE.method])):
            raise MgsrError(f"exposure bias of {name} and {EXPOSURE.method} was measured on different prompts; measure anew")
        theirs, rows = _excess(runs[name], lengths), len(runs[name][0].ids)
        for place, length in enumerate(lengths):
            draws, effect = (theirs[i][..., place] - ours[i][..., place] for i in (1, 0))
            where = f"Dolly, length {length}"
            if not np.isfinite([effect, *draws]).all():
                found.append(Finding(name, groups[name][0], where, None, None, None, None, None))
                continue
            low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
            tail = 2 * (1 + min(int(np.sum(draws <= 0)), int(np.sum(draws >= 0)))) / (len(draws) + 1)
            interval = Interval(float(effect), float(low), float(high), rows)
            needed = rows_to_decide(draws * math.sqrt(rows), float(effect))
            found.append(Finding(name, groups[name][0], where, float(effect), interval, min(1.0, tail), None, needed))
    return found


def _excess(runs: Sequence[Divergences], lengths: list[int]) -> tuple[Any, Any]:
    """ExAccErr [lengths] and its resamples over prompts [resamples, lengths], means over training seeds."""
    values = np.mean([run.excess_error(lengths) for run in runs], axis=0)
    return values, np.mean([run.excess_error_resamples(lengths) for run in runs], axis=0)


def verdict(found: Sequence[Finding]) -> str:
    """Of all comparisons of one claim together. Being above all of several needs no correction (each must hold by itself);
    being below one of several does. A comparison that is not defined (no sample of that length) takes no part."""
    known = [(one, one.interval, one.p) for one in found if one.interval is not None and one.p is not None]
    if not found:
        return NOT_RUN
    if known and all(interval.low > 0 and p < ALPHA for _, interval, p in known):
        return HOLDS
    adjusted = holm([p for *_, p in known])
    below = any(interval.high < 0 and p < ALPHA for (_, interval, _), p in zip(known, adjusted, strict=True))
    equal = any(interval.low == interval.high == interval.difference == 0 for _, interval, _ in known)
    return FAILS if below or equal else UNDECIDED


def deciding(found: Sequence[Finding]) -> int | None:
    """Prompts that would decide the claim if the effects seen are true: enough to be below the first method that it is below,
    else to be above the last of all."""
    below = [one.needed for one in found if one.effect is not None and one.effect < 0 and one.needed is not None]
    return min(below) if below else max((one.needed for one in found if one.needed is not None), default=None)


def hardest(found: Sequence[Finding]) -> Finding | None:
    """The comparison that speaks least for the claim."""
    return min(found, key=lambda one: math.inf if one.effect is None else one.effect, default=None)


def _exposures(value: Any, family: str) -> dict[str, tuple[str, list[Path]]]:
    """By method: title and the summaries of its training seeds."""
    found: dict[str, tuple[str, list[Path]]] = {}
    for row in value["rows"]:
        if row["family"] == family and row["exposure"]:
            found.setdefault(row["method"], (row["title"], []))[1].append(Path(row["exposure"]))
    return found


def judge(value: Mapping[str, Any], path: Path) -> Iterator[tuple[Claim, str, str, str, list[Finding]]]:
    """(claim, protocol, family, title of the claim's method, its comparisons), in the order of the paper's text. A family that
    the claim's table does not show is left out, unless there is no such table."""
    tables = {name: parse_cells(cells, path) for name, cells in value["tables"].items()}
    if not tables:
        raise MgsrError(f"{path} holds no table to judge claims by; make at least one table")
    families = list(dict.fromkeys(family for cells in tables.values() for family in cells.families))
    for protocol in dict.fromkeys(protocol for cells in tables.values() for protocol in cells.protocols):
        for claim in CLAIMS:
            cells = tables.get(claim.table)
            for family in cells.families if cells else families:
                groups = {group.method: group for group in cells.groups if group.family == family} if cells else {}
                title = groups[claim.method].title if claim.method in groups else claim.method
                yield claim, protocol, family, title, find(claim, groups, cells.sets, protocol) if cells else []
    cells = tables.get(EXPOSURE.table)
    for family in cells.families if cells else families:
        exposures = _exposures(value["tables"][EXPOSURE.table], family) if cells else {}
        title = exposures[EXPOSURE.method][0] if EXPOSURE.method in exposures else EXPOSURE.method
        yield EXPOSURE, EXPOSURE_PROTOCOL, family, title, find_exposure(exposures)


def build_claims(value: Mapping[str, Any], path: Path) -> pd.DataFrame:
    """A line for each comparison. `hardest`: the one that Markdown shows; `compared` of `expected` other methods were run;
    `verdict` is the claim's, so the same on all its lines."""
    lines: list[dict[str, Any]] = []
    for claim, protocol, family, title, found in judge(value, path):
        compared = {one.against.removesuffix(SECOND_ROW) for one in found}
        outcome, shown, needed = verdict(found), hardest(found), deciding(found)
        for one in found or [Finding("", "", "", None, None, None, None, None)]:
            lines.append(
                {
                    "protocol": protocol, "claim": claim.key, "text": claim.text, "family": family, "method": claim.method,
                    "title": title, "against": one.against, "against_title": one.title, "hardest": one is shown or not found,
                    "compared": len(compared), "expected": len(claim.against), "sets": one.sets,
                    "effect": one.effect, "low": one.interval.low if one.interval else None,
                    "high": one.interval.high if one.interval else None, "p": one.p, "gain_percent": one.gain,
                    "prompts": one.interval.rows if one.interval else 0, "prompts_to_decide": one.needed, "verdict": outcome,
                    "claim_prompts_to_decide": needed,
                }
            )  # fmt: skip
    numeric = ("effect", "low", "high", "p", "gain_percent", "prompts_to_decide", "claim_prompts_to_decide")
    return pd.DataFrame(lines).astype(dict.fromkeys(numeric, "float64"))


def _deciding(line: Mapping[Any, Any], lone: bool) -> str:
    """`lone`: there is one training seed, so that more of them cannot be what is missing."""
    if line["verdict"] != UNDECIDED or pd.isna(line["claim_prompts_to_decide"]):
        return "–" if line["verdict"] in (HOLDS, FAILS) else MISSING
    needed = int(line["claim_prompts_to_decide"])
    return f"{needed:,}" if needed > line["prompts"] else f"over {line['prompts']:,}" if lone else MORE_SEEDS


def _row(line: Mapping[Any, Any], lone: bool) -> tuple[str, ...]:
    others = f" ({line['compared']} of {line['expected']} compared)" if line["expected"] > 1 and line["against"] else ""
    where = f", {line['sets'].partition(', ')[2]}" if line["claim"] == EXPOSURE.key and line["sets"] else ""
    interval = MISSING if pd.isna(line["low"]) else f"{number(line['low'])} to {number(line['high'])}"
    return (
        line["text"], line["family"], f"{line['against_title']}{where}{others}" or MISSING, number(line["effect"]), interval,
        number(line["gain_percent"], 1), str(line["prompts"]), line["verdict"], _deciding(line, lone),
    )  # fmt: skip


def document(value: Mapping[str, Any], path: Path) -> Document:
    return _document(value, build_claims(value, path), path)


def _document(value: Mapping[str, Any], frame: pd.DataFrame, path: Path) -> Document:
    tables = [parse_cells(cells, path) for cells in value["tables"].values()]
    lone = any(len(group.cells) == 1 for cells in tables for group in cells.groups if group.role == "student")
    header = (
        "claim",
        "family",
        "compared with",
        "effect",
        "95 % interval",
        "gain %",
        "prompts",
        "verdict",
        "prompts to decide",
    )
    blocks = tuple(
        Block(
            HEADINGS.get(str(protocol), f"protocol {protocol}"),
            header,
            tuple(_row(line, lone) for line in part[part["hardest"]].to_dict("records")),
        )
        for protocol, part in frame.groupby("protocol", sort=False)
    )
    note = value["note"].strip()
    title = f"The paper's claims (preset {value['preset']}, recipe {value['recipe']})"
    return Document(title, blocks, (*([note] if note else []), *NOTES, *([ONE_SEED] if lone else [])))


def write(cells_path: Path, folder: Path) -> None:
    """folder/claims.csv, .md and .tex from a claims file: the cells of all tables under `tables`."""
    value = read_json(cells_path)
    if not isinstance(value, dict) or value.get("table") != "claims":
        raise MgsrError(f"{cells_path} is not a claims file; run the same command again to write it anew")
    frame = build_claims(value, cells_path)
    write_table(frame, folder, "claims", _document(value, frame, cells_path))
