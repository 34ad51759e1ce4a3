"""Places on the cluster for the workers of a run: found before they start, or waited for aloud.

Ray queues what does not fit and says nothing. So what a run will hold at once is first asked for as one
placement group: Ray packs it node by node into what is free. It is given back before the workers start, which
then take the same places one by one. What the nodes that are there could never hold is refused; a cluster
that grows (`session.may_grow`) sees it as demand, and is waited for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from spineage.engine import session
from spineage.engine.labels import Labels, matches, said
from spineage.errors import BadStudy

Tell = Callable[[str], None]
Amounts = dict[str, float]

SMALLEST_SHARE: Final = 0.02
"""Of the cores that workers would like: they share processors then, and start all the same."""
SHRINK: Final = 0.3
QUICK_S: Final = 1.5
IDLE_S: Final = 20.0
"""For a place where nothing else runs: it will come, however slow the machine is."""
EVERY_S: Final = 30.0
UNIT: Final = 1e4
"""Ray counts resources in ten thousandths."""


@dataclass(frozen=True)
class Place:
    """What one worker takes, on a node that its labels name; or what a node has, and its labels."""

    amounts: Amounts
    labels: Labels = field(default_factory=dict)

    @property
    def cpus(self) -> float:
        return self.amounts.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        return self.amounts.get("GPU", 0.0)


@dataclass(frozen=True)
class Need:
    """Workers of one kind, what each of them takes, and the labels of the nodes that may have it."""

    name: str
    workers: int
    cpus: float
    gpus: float = 0.0
    labels: Labels = field(default_factory=dict)

    def places(self, share: float = 1.0) -> list[Place]:
        """A worker that takes nothing needs none, wherever it is."""
        wanted = {"CPU": cores(self.cpus, share), "GPU": self.gpus}
        one = {kind: amount for kind, amount in wanted.items() if amount}
        return [Place(one, self.labels)] * self.workers if one else []


def cores(cpus: float, share: float) -> float:
    """A share of a worker's cores, never more: rounded upwards, a full cluster would have no place."""
    return math.floor(cpus * share * UNIT) / UNIT


def aloud(text: str) -> None:
    """Where nobody listens, to the log."""
    print(text, file=sys.stderr, flush=True)


def on_gpus(needs: Sequence[Need], tell: Tell = aloud) -> list[Need]:
    """As many workers of each kind as the GPUs hold, which is said when it is fewer than asked for.

    Raises BadStudy when not even one of each kind fits, or no node has the labels of one.
    """
    if session.may_grow():
        return list(needs)
    _require_labels(needs)
    asked = [need.workers if need.gpus else 0 for need in needs]
    fitting = [0] * len(needs)
    grows = True
    while grows:
        grows = False
        for i, most in enumerate(asked):
            more = [n + (j == i) for j, n in enumerate(fitting)]
            if fitting[i] < most and could_hold(_sized(needs, more)):
                fitting, grows = more, True
    if any(most and not n for most, n in zip(asked, fitting, strict=True)):
        one_each = _sized(needs, [int(most > 0) for most in asked])
        raise BadStudy(
            f"{_listed([n for n in needs if n.gpus])} take {_amount(one_each)} at once and the cluster "
            f"has {_amount(_nodes())}: with a fraction in cluster.gpus_per_worker they share one, with 0 "
            "they run on CPUs"
        )
    for need, num in zip(needs, fitting, strict=True):
        if need.gpus and num < need.workers:
            tell(
                f"{need.name}: {num} workers, not {need.workers}: the cluster has {_amount(_nodes())}"
            )
    return [
        replace(need, workers=num if need.gpus else need.workers)
        for need, num in zip(needs, fitting, strict=True)
    ]


def share_of_cores(needs: Sequence[Need], tell: Tell = aloud) -> float:
    """The largest share of their cores with which all workers have a place at once; waits until they have."""
    if session.may_grow():
        _wait(all_places(needs, 1.0), needs, tell)
        return 1.0
    wanted = sum(need.workers * need.cpus for need in needs)
    largest = max((need.cpus for need in needs), default=0.0)
    if not wanted:
        _wait(all_places(needs, 1.0), needs, tell)
        return 1.0
    most = max((node.cpus for node in _nodes()), default=0.0)
    share = min(1.0, _free("CPU") / wanted, most / largest)
    while share > SMALLEST_SHARE:
        wanted_places = all_places(needs, share)
        within_s = IDLE_S if _is_idle() else QUICK_S
        if could_hold(wanted_places) and _are_free(wanted_places, within_s):
            return share
        share *= SHRINK
    _wait(all_places(needs, SMALLEST_SHARE), needs, tell)
    return SMALLEST_SHARE


def wait_for(needs: Sequence[Need], remedy: str, tell: Tell = aloud) -> None:
    """Wait until all of it is free at once. Raises BadStudy when the whole cluster does not hold it.

    remedy: which setting asks for less.
    """
    if not session.may_grow():
        _require_labels(needs)
    places = all_places(needs, 1.0)
    if not (could_hold(places) or session.may_grow()):
        raise BadStudy(
            f"{_listed(needs)} takes {_amount(places)} at once and the cluster has "
            f"{_amount(_nodes())} on {len(_nodes())} nodes: {remedy}"
        )
    _wait(places, needs, tell)


def _require_labels(needs: Sequence[Need]) -> None:
    """A label that no node has is a word misspelt, or a node that is not there."""
    for need in needs:
        if not any(matches(node.labels, need.labels) for node in _nodes()):
            have = {f"{k}={v}" for node in _nodes() for k, v in node.labels.items()}
            listed = ", ".join(sorted(label for label in have if "node-id" not in label))
            raise BadStudy(
                f"{need.name or 'a step'} asks for a node{said(need.labels)} (cluster.labels) and the "
                f"cluster has none; labels that are there: {listed or 'none'}"
            )


def _wait(places: list[Place], needs: Sequence[Need], tell: Tell) -> None:
    if places and not (could_hold(places) or session.may_grow()):
        raise BadStudy(
            f"{_listed(needs)} take {_amount(places)} at least and the cluster has "
            f"{_amount(_nodes())} on {len(_nodes())} nodes: ask for fewer workers"
        )
    if not places or _are_free(places, QUICK_S):
        return
    group = _group(places)
    try:
        while True:
            free = ", ".join(f"{_free(kind):g} of {n:g} {kind}" for kind, n in _total().items())
            tell(
                f"waiting for room on the cluster: {_listed(needs)} take "
                f"{_amount(places)}, free are {free or 'none'}; {_whats_missing()}"
            )
            if group.wait(EVERY_S):
                return
    finally:
        remove_placement_group(group)


def _whats_missing() -> str:
    return "the cluster is asked to grow" if session.may_grow() else "other work holds the rest"


def _group(places: list[Place]) -> PlacementGroup:
    return placement_group(
        [dict(place.amounts) for place in places],
        bundle_label_selector=[dict(place.labels) for place in places],
    )


def _are_free(places: list[Place], within_s: float) -> bool:
    group = _group(places)
    try:
        return bool(group.wait(within_s))
    finally:
        remove_placement_group(group)


def could_hold(places: list[Place]) -> bool:
    """Whether the nodes could hold them if nothing else ran: the largest first, where it first fits.

    A part of a GPU lies on one device.
    """
    nodes = _nodes()
    free = [(node.cpus, [1.0] * int(node.gpus)) for node in nodes]
    for place in sorted(places, key=lambda p: (len(p.labels), p.gpus, p.cpus), reverse=True):
        for i, node in enumerate(nodes):
            if (
                matches(node.labels, place.labels)
                and (after := _placed(place, *free[i])) is not None
            ):
                free[i] = after
                break
        else:
            return False
    return True


def _placed(place: Place, cpus: float, devices: list[float]) -> tuple[float, list[float]] | None:
    """What a node has left once it holds the worker; None when it cannot."""
    cpus_left, gpus = cpus - place.cpus, place.gpus
    if cpus_left < -1 / UNIT / 2:
        return None
    takes, left = (1.0, round(gpus)) if gpus >= 1 else (gpus, int(gpus > 0))
    after = []
    for free in devices:
        is_taken = left > 0 and free + 1 / UNIT / 2 >= takes
        after.append(free - takes if is_taken else free)
        left -= is_taken
    return None if left else (cpus_left, after)


def _sized(needs: Sequence[Need], workers: Sequence[int]) -> list[Place]:
    sized = [replace(need, workers=n) for need, n in zip(needs, workers, strict=True)]
    return all_places(sized, 1.0)


def all_places(needs: Sequence[Need], share: float) -> list[Place]:
    """The places of all workers, each with this share of its cores."""
    return [place for need in needs for place in need.places(share)]


def _nodes() -> list[Place]:
    return [
        Place({kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")}, node["Labels"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def _total() -> Amounts:
    return {
        k: n for k in ("CPU", "GPU") if (n := sum(node.amounts.get(k, 0.0) for node in _nodes()))
    }


def _free(kind: str) -> float:
    return float(ray.available_resources().get(kind, 0.0))


def _is_idle() -> bool:
    return all(_free(kind) >= n - 1 / UNIT for kind, n in _total().items())


def _amount(places: Sequence[Place]) -> str:
    sums = {"CPU": sum(p.cpus for p in places), "GPU": sum(p.gpus for p in places)}
    return " and ".join(f"{round(n, 2):g} {kind}" for kind, n in sums.items() if n) or "no CPU"


def _listed(needs: Sequence[Need]) -> str:
    return ", ".join(dict.fromkeys((need.name or "a step") + said(need.labels) for need in needs))
