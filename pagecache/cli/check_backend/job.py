"""The course of a run: first steps, the checks, the measurements; every step has a time limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pagecache.backends.plain import FILE_METHODS, returned
from pagecache.backends.protocol import Backend, BackendLimits
from pagecache.cli.check_backend.answers import is_stat, wrong_answer
from pagecache.cli.check_backend.bounded import Hung, within
from pagecache.cli.check_backend.checking import Kept, Objects, check_all, checks
from pagecache.cli.check_backend.limits import Finding, check_limits, to_write_down
from pagecache.cli.check_backend.measuring import Budget, Measures, measure, saturated
from pagecache.cli.check_backend.promises import CAPABILITIES
from pagecache.cli.progress import Progress
from pagecache.target import BadTarget, Hangs, Target

__all__ = ["Report", "Settings", "run"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a run.

    Attributes:
        timeout: seconds for each check.
        budget: of measuring.
        limits_only: no checks.
        keep: leave the objects behind.
    """

    timeout: float
    budget: Budget
    limits_only: bool = False
    keep: bool = False


@dataclass(slots=True)
class Report:
    """The findings of a run.

    Attributes:
        stopped: why the run is incomplete; "" if it is complete.
        suggested: the recommended limits; None: nothing could be measured.
        server: properties of the store's server: name, whether it has it, what it is, what is done otherwise.
        left: keys of objects that still exist.
        hung: a thread was left behind in a call.
        unfinished: limits or figures are incomplete, as the backend failed.
    """

    target: str
    backend: str
    declared: BackendLimits
    kept: list[Kept] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    measures: Measures = field(default_factory=Measures)
    stopped: list[str] = field(default_factory=list)
    suggested: BackendLimits | None = None
    server: list[tuple[str, bool, str, str]] = field(default_factory=list)
    prefix: str = ""
    left: list[str] = field(default_factory=list)
    hung: bool = False
    unfinished: bool = False

    @property
    def broken(self) -> list[Kept]:
        return [kept for kept in self.kept if kept.status in ("broken", "hangs")]

    @property
    def wrong(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "wrong"]

    @property
    def ok(self) -> bool:
        """Return whether all promises were checked and kept."""
        return not (self.broken or self.wrong or self.unfinished)

    def growing(self) -> list[str]:
        """Return the limits whose largest value was the fastest: more may be faster still."""
        sizes, parallel = self.measures.sizes, self.measures.parallel
        found = [f"max_{verb}" for verb in ("read", "write") if sizes and saturated(sizes, verb) == sizes[-1].at]
        most = parallel[-1].at if len(parallel) > 1 else None
        if most is not None and most in [saturated(parallel, verb) for verb in ("read", "write")]:
            found.append("max_inflight")
        return found

    def capabilities(self) -> list[tuple[str, str]]:
        """Return the rows of the table: feature, and yes, no, or failed."""
        rows = []
        for capability in CAPABILITIES:
            count = Counter(kept.status for kept in self.kept if kept.promise.capability == capability)
            bad = count["broken"] + count["hangs"]
            if bad:
                rows.append((capability, "hangs" if not count["broken"] else "FAILED"))
            elif count["kept"]:
                rows.append((capability, "yes"))
            elif count["not offered"]:
                rows.append((capability, "no"))
        return rows


def run(target: Target, settings: Settings, progress: Progress) -> Report:
    """Check a backend.

    Raises:
        BadTarget: there is none, or its first steps fail.
    """
    try:
        backend = within(settings.timeout, target.make)
    except Hung as error:
        raise Hangs(f"{target.name}: the factory hangs: {error}") from None
    report = Report(target.name, target.kind, backend.limits)
    if backend.limits.read_only:
        report.stopped.append("read_only=True: there is no way to put something in, so nothing was checked or measured")
        return report
    objects = Objects(target, settings.timeout, keep=settings.keep)
    report.prefix = objects.prefix
    try:
        _first_steps(target, backend, objects, settings.timeout)
        _ask_server(target, report, settings.timeout)
        wrong = _wrong_answer(target, objects, report, settings.timeout)
        if wrong is not None:
            report.kept.append(wrong)
            report.unfinished = True
            report.stopped.append(
                f"{len(checks())} checks and the measuring need a right answer here, and were left out"
            )
        else:
            if not settings.limits_only:
                _check(target, objects, settings, report, progress)
            with progress.phase("measuring", 1):
                _measure(target, objects, settings, report)
    finally:
        objects.finish()
        report.left = objects.left
    return report


def _first_steps(target: Target, backend: Backend, objects: Objects, timeout: float) -> None:
    """Try the calls that all checks need.

    Raises:
        BadTarget: names the call that does not work.
    """

    def steps() -> None:
        key = objects.key("first", "object")
        what = f"canonical({key!r})"
        try:
            backend.canonical(key)
            what = f"open({key!r}, create=True)"
            file = backend.open(key, create=True)
            if missing := [name for name in FILE_METHODS if not callable(getattr(file, name, None))]:
                raise BadTarget(f"{target.name}: {what} gave {file!r}: no BackendFile without {', '.join(missing)}")
            what = "stat of a new object"
            if not is_stat(stat := file.stat()):
                raise BadTarget(f"{target.name}: {what} gave no ObjectStat: {returned(stat)}")
            what = "commit of a new object"
            file.commit()
        except BadTarget:
            raise
        except Exception as error:
            # Keys of the suite are text; a suite for a backend with other keys defines make_key.
            raise BadTarget(f"{target.name}: {what} raises {type(error).__name__}: {error}") from error
        if hasattr(file, "close"):
            file.close()
        objects.remove(backend, "first")

    try:
        within(timeout, steps)
    except Hung as error:
        raise Hangs(f"{target.name}: the first steps hang: {error}") from None
    within(timeout, backend.close)


def _ask_server(target: Target, report: Report, timeout: float) -> None:
    """Find out what the backend's server supports, if the backend can."""
    backend = within(timeout, target.make)
    try:
        if (ask := getattr(backend, "server_properties", None)) is not None:
            report.server = within(timeout, ask)
    except (Hung, OSError) as error:
        report.unfinished = True
        report.stopped.append(f"the server could not be asked what it supports: {error}")
    finally:
        within(timeout, backend.close)


def _wrong_answer(target: Target, objects: Objects, report: Report, timeout: float) -> Kept | None:
    try:
        return within(timeout, lambda: wrong_answer(target, objects))
    except Hung:
        report.hung = True
        target.forget_loop()
    except Exception:
        pass  # the checks hit it again, and report the position
    return None


def _check(target: Target, objects: Objects, settings: Settings, report: Report, progress: Progress) -> None:
    total = len(checks())
    with progress.phase("checks", total) as advance:
        for kept in check_all(target, objects, settings.timeout):
            report.kept.append(kept)
            report.hung |= kept.status == "hangs"
            advance(1)
    if len(report.kept) < total:
        report.stopped.append(f"too many checks hang: {total - len(report.kept)} of {total} were not made")


def _measure(target: Target, objects: Objects, settings: Settings, report: Report) -> None:
    """Check the limits and measure, as far as each step succeeds."""

    def check() -> None:
        for finding in check_limits(target, objects):
            report.findings.append(finding)

    def take() -> None:
        backend = target.make()
        try:
            measure(backend, objects, settings.budget, report.measures)
        finally:
            backend.close()

    for what, call, seconds in (
        ("the check of the limits", check, settings.timeout),
        ("measuring", take, settings.timeout + settings.budget.seconds),
    ):
        try:
            within(seconds, call)
        except Hung as error:
            report.hung = True
            report.unfinished = True
            report.stopped.append(f"{what} hangs: {error}")
            target.forget_loop()
        except Exception as error:
            report.unfinished = True
            report.stopped.append(f"{what} was ended by {type(error).__name__}: {error}")
    if report.measures.sizes:
        report.suggested = to_write_down(report.declared, report.measures, report.findings)
