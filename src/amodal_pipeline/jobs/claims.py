"""The claims of papers: which trainings check them, and the page of what came out.

``docs/claims.yml`` names each claim, the two rows of an ablation that it compares, and where the
paper has its figures. Every training has a folder of its own by schedule and seed, below the
"claims" of its data set, so that ordinary ablations are not touched.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from omegaconf import OmegaConf
from pydantic import Field, model_validator

from amodal_pipeline.annotations import Given
from amodal_pipeline.jobs.rows import RowName
from amodal_pipeline.layers.configs import Seed, Strict
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.metrics.scores import join
from amodal_pipeline.metrics.verdicts import Difference, Expected, Verdict, judge, paired

OWN = "own schedule"
_SIGNS = {"above": "+", "below": "−", "equal": "0"}


class Published(Strict):
    """Where published.csv has the figures of a claim: two rows of a table, as the paper names
    them, on one data set by one metric."""

    table: str
    dataset: str
    metric: str
    row: str
    against: str


class Stated(Strict):
    """A difference in a paper's running text, in points, and where it says so."""

    value: float
    where: str


class Claim(Strict):
    """One claim of a paper, as a comparison of two rows.

    Attributes:
        paper: as in published.csv.
        says: the claim in words.
        published, stated: the paper's figures, in one of the two ways.
        ablation: whose rows are compared, a method's name; null compares methods as they are.
        row, against: the rows.
        inputs, against_inputs: what each was given, where that does not follow: "image", "true", or
            the detector whose masks it completes.
        metric: "protocol/metric" that decides.
        expected: where ``row`` is expected to be: "above" or "below" ``against``, or "equal" within
            ± ``margin`` points.
        data: environments in which it is checked.
        note: what to know before believing the verdict.
    """

    paper: str
    says: str
    published: Published | None = None
    stated: Stated | None = None
    ablation: str | None
    row: RowName
    against: RowName
    inputs: str | None = None
    against_inputs: str | None = None
    metric: Annotated[str, Field(pattern=r"^\w+/\w+$")]
    expected: Expected = "above"
    margin: float = Field(0.0, ge=0)
    data: tuple[str, ...] = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _has_figures_and_a_margin(self) -> Self:
        if (self.published is None) == (self.stated is None):
            raise ValueError(f"{self.says!r} needs either published or stated")
        if (self.expected == "equal") != (self.margin > 0):
            raise ValueError(f"{self.says!r}: a margin belongs to expected: equal, and to it only")
        return self


class Run(Strict):
    """How the rows of an ablation are trained for claims.

    Attributes:
        ablation: a method's name.
        iterations: of the heads on a shared trunk, or of the whole trainings where there is no
            trunk; null leaves each row its own.
        parameters: further ``--params``.
    """

    ablation: str
    iterations: int | None = Field(None, gt=0)
    parameters: dict[str, str | int | float | bool | None] = Field({})


class ClaimsFile(Strict):
    """``seeds`` of every training; ``runs`` in order of value; ``claims``."""

    seeds: tuple[Seed, ...] = Field(min_length=1)
    runs: tuple[Run, ...]
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _claims_have_runs(self) -> Self:
        known = {run.ablation for run in self.runs}
        for claim in self.claims:
            if claim.ablation is not None and claim.ablation not in known:
                raise ValueError(f"{claim.says!r}: no run has the ablation {claim.ablation}")
        return self

    def only(
        self,
        ablations: Sequence[str] = (),
        seeds: Sequence[int] = (),
        iterations: int | None = None,
        data: Sequence[str] = (),
    ) -> Self:
        """Return the file with some of its runs, on some of its data, with other seeds, or with
        another number of iterations."""
        chosen = [run for run in self.runs if not ablations or run.ablation in ablations]
        if iterations:
            chosen = [run.model_copy(update={"iterations": iterations}) for run in chosen]
        claims = [
            claim.model_copy(update={"data": here})
            for claim in self.claims
            if (here := tuple(name for name in claim.data if not data or name in data))
        ]
        update = {"runs": tuple(chosen), "claims": tuple(claims)}
        update["seeds"] = tuple(seeds) or self.seeds
        return self.model_copy(update=update)


def read_claims(path: Path) -> ClaimsFile:
    """Return the claims of a YAML file.

    Raises:
        ValidationError: it has unknown names, or a claim is incomplete.
    """
    return ClaimsFile.model_validate(OmegaConf.to_container(OmegaConf.load(path)))


@dataclass(frozen=True)
class Training:
    """One row of an ablation, trained and scored with one seed in one environment."""

    run: Run
    environment: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.environment}: ablate_{self.run.ablation} {self.row}, seed {self.seed}"

    @property
    def place(self) -> Path:
        """Return its folder below a data set's folder of models, predictions or reports."""
        count = self.run.iterations
        schedule = f"{count}_iterations" if count else "own_schedule"
        return Path("claims", schedule, f"seed_{self.seed}", self.run.ablation)

    def parameters(self, dataset: str, trunk: bool) -> dict[str, Any]:
        """Return the ``--params`` of its run.

        Args:
            dataset: name of the data set of its environment, which is part of all folders.
            trunk: rows of the ablation train their heads on a shared trunk in this environment.
        """
        table = f"ablate_{self.run.ablation}"
        schedule: dict[str, Any] = {"seed": self.seed, "precision": "auto"}
        values = {f"{table}.training.{key}": value for key, value in schedule.items()}
        if count := self.run.iterations:
            schedule["iterations"] = count
            if trunk:
                schedule |= {"warmup_iterations": count // 10, "checkpoint_every": 100}
        within = f"{table}.trunk.training" if trunk else f"{table}.training"
        values |= {f"{within}.{key}": value for key, value in schedule.items()}
        return {
            "row": self.row,
            "tracking": False,
            f"folders.jobs.{table}": f"data/06_models/{dataset}/{self.place}",
            "folders.model_output": f"data/07_model_output/{dataset}/{self.place}",
            "folders.parts": f"data/08_reporting/{dataset}/{self.place}",
            **values,
            **self.run.parameters,
        }


def trainings(file: ClaimsFile) -> Iterator[Training]:
    """Yield what the claims need: a whole pass with one seed before the next seed, and in a pass
    ablations in the order of ``runs``."""
    for seed in file.seeds:
        for run in file.runs:
            own = [claim for claim in file.claims if claim.ablation == run.ablation]
            for environment in dict.fromkeys(name for claim in own for name in claim.data):
                here = [claim for claim in own if environment in claim.data]
                rows = dict.fromkeys(row for claim in here for row in (claim.against, claim.row))
                for row in rows:
                    yield Training(run, environment, row, seed)


@dataclass(frozen=True)
class Line:
    """A claim on one data set; ``found`` is None where not both rows have been run."""

    claim: Claim
    dataset: str
    found: Difference | None = None
    schedule: str = ""

    @property
    def verdict(self) -> Verdict | Literal["not run"]:
        if self.found is None:
            return "not run"
        return judge(self.found, self.claim.expected, self.claim.margin)


def judge_claims(file: ClaimsFile, reports: Path) -> list[Line]:
    """Return a line per claim and data set, from whatever has been scored so far.

    Of several schedules the longest counts that has both rows; ordinary scores of methods and
    ablations count where no training was made for claims.

    Args:
        file: the claims.
        reports: folder with a folder of scores per data set.
    """
    return [_line(claim, dataset, reports) for claim in file.claims for dataset in claim.data]


def _line(claim: Claim, dataset: str, reports: Path) -> Line:
    metric = tuple(claim.metric.split("/"))
    for schedule, folders in _schedules(reports / dataset, claim.ablation):
        draws = _draws(folders, claim)
        sides = [
            _side(draws, claim.row, claim.inputs, claim.ablation),
            _side(draws, claim.against, claim.against_inputs, claim.ablation),
        ]
        if None in sides or _unequal(sides, claim):
            continue
        if found := paired(draws, metric, *sides):
            return Line(claim, dataset, found, schedule)
    return Line(claim, dataset)


def _schedules(reports: Path, ablation: str | None) -> Iterator[tuple[str, list[Path]]]:
    """Yield the folders of scores of each schedule, the longest first, the ordinary one last."""
    made = sorted((reports / "claims").glob("*_iterations"), key=_iterations, reverse=True)
    made += (reports / "claims").glob("own_schedule")
    if ablation:
        for folder in made:
            name = f"{_iterations(folder):,} iterations" if folder.name[0].isdigit() else OWN
            yield name, sorted(folder.glob(f"seed_*/{ablation}"))
    yield OWN, [reports / "parts"]


def _iterations(folder: Path) -> int:
    return int(folder.name.partition("_")[0]) if folder.name[0].isdigit() else 0


def _draws(folders: Iterable[Path], claim: Claim) -> pd.DataFrame:
    """Return the draws of the rows of a claim, whatever their method is."""
    found = []
    for folder in folders:
        stems = [path.name.removesuffix(".csv") for path in sorted(folder.glob("*.csv"))]
        wanted = [stem for stem in stems if {claim.row, claim.against} & {*stem.split(".")}]
        # Baselines are scored with the methods that they are based on.
        chosen = stems if claim.ablation is None else wanted
        if chosen:
            found.append(join(load_scores(folder, stem) for stem in chosen).draws)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _side(
    draws: pd.DataFrame, name: str, inputs: str | None, ablation: str | None
) -> dict[str, str] | None:
    """Return the columns that select a row of a claim; None where it has no draws."""
    if draws.empty:
        return None
    given = {"inputs": inputs} if inputs else {}
    choices = [{"method": name, "variant": "full"}]
    if ablation:
        own = {"method": ablation, "variant": name}
        choices = [own, {"method": name, "variant": name}, *choices, {"variant": name}]
    for choice in choices:
        side = choice | given
        if (draws[list(side)] == pd.Series(side)).all(axis=1).any():
            return side
    return None


def _unequal(sides: Sequence[Mapping[str, str]], claim: Claim) -> bool:
    """Return whether an ablation's claim would compare two methods as they are, which need not
    have been trained for as long."""
    return claim.ablation is not None and all(side.get("variant") == "full" for side in sides)


def write_page(lines: Sequence[Line], published: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return the page of all claims as Markdown.

    Args:
        lines: from :func:`judge_claims`.
        published: rows of published.csv.
        titles: heading per paper, in their order.
    """
    counts = pd.Series([line.verdict for line in lines]).value_counts()
    verdicts = ("held", "refuted", "undecided", "not run")
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in verdicts)
    parts = [_HEAD.format(lines=len(lines), told=told)]
    for paper, title in titles.items():
        own = [line for line in lines if line.claim.paper == paper]
        if own:
            table = "\n".join(_cells(line, published) for line in own)
            parts.append(f"## {title}\n\n{_COLUMNS}\n{table}\n")
    return "\n".join(parts)


def _cells(line: Line, published: pd.DataFrame) -> str:
    claim, found = line.claim, line.found
    compared = f"`{claim.row}` − `{claim.against}`, {claim.metric.partition('/')[2]}"
    match Given.of(claim.inputs) if claim.inputs else None:
        case Given.TRUE_MASKS:
            compared += ", on true masks"
        case Given.DETECTIONS:
            compared += f", on detections of `{claim.inputs}`"
    says = f"{claim.says}. {claim.note}" if claim.note else claim.says
    if found is None:
        cells = ["", "not run", "", ""]
    else:
        ours = f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"
        seeds = "1 seed" if found.seeds == 1 else f"{found.seeds} seeds"
        verdict = f"**{line.verdict}**" + ("¹" if found.seeds == 1 else "")
        cells = [ours, verdict, f"{found.smallest:.1f}", f"{line.schedule}, {seeds}"]
    expected = _SIGNS[claim.expected] + (f" (±{claim.margin:g})" if claim.margin else "")
    row = [says, paper_figure(claim, published), compared, expected, line.dataset, *cells]
    return "| " + " | ".join(row) + " |"


def paper_figure(claim: Claim, published: pd.DataFrame) -> str:
    """Return the paper's difference, with its table and data set.

    Raises:
        ValueError: published.csv has no such row, or several.
    """
    if claim.stated:
        return f"{signed(claim.stated.value)} ({claim.stated.where})"
    where = claim.published
    rows = published[
        (published["paper"] == claim.paper)
        & (published["table"] == where.table)
        & (published["dataset"] == where.dataset)
        & (published["metric"] == where.metric)
        & (published["category"] == "all")
    ]
    values = []
    for name in (where.row, where.against):
        found = rows.loc[rows["row"] == name, "value"]
        if len(found) != 1:
            raise ValueError(
                f"{claim.says!r}: published.csv has {len(found)} rows {name!r} of table "
                f"{where.table} of {claim.paper} for {where.metric} on {where.dataset}: name one"
            )
        values.append(float(found.iloc[0]))
    return f"{signed(values[0] - values[1])} {where.metric} ({where.dataset}, Table {where.table})"


def signed(value: float) -> str:
    """Return a difference to one decimal with its sign, "0.0" without one."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


_HEAD = """\
# Claims

What each paper claims, its own figure, and what became of it here. **`make claims` makes this page
from the scores on disk; nothing on it is written by hand** ([claims.yml](claims.yml) has the
claims). {lines} lines: {told}.

    make claims                                  # all of it, for many hours; go on after a kill
    python benchmarks/claims.py --only vrsp --seeds 0 1 2 --iterations 1000
    python benchmarks/claims.py --page           # this page alone, from what is finished

- *Ours* is the difference in points, the first row minus the second, with a 95 % interval over
  validation images (paired bootstrap of the mean over seeds) and over seeds (Student's interval of
  that mean), added in squares.
- **held**: the interval excludes 0 on the side that the paper expects; **refuted**: on the other
  side; **undecided**: it contains 0. Where the paper expects no difference ("0"), held is an
  interval within the margin, refuted one outside of it.
- ¹ One seed: the interval is over images alone, and another seed may decide otherwise.
- *Smallest* is half the interval's width, the smallest difference that could have been seen.
- *Trained*: heads on the frozen boxes and features of one Mask R-CNN where the ablation has a trunk
  (ORCNN, VRSP), so that effects on shared features are not seen and seeds are those of the heads
  alone; whole trainings elsewhere. "own schedule" is the embedded training of each method. Networks
  and data are small: a claim refuted here may hold at the paper's size.
"""

_COLUMNS = """\
| claim | paper | compared, metric | expected | data | ours | verdict | smallest | trained |
|---|---|---|---|---|---|---|---|---|"""
