"""A build for one platform or several: what is planned for each, and what becomes of their images."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pybuild.api.request import BuildRequest
from pybuild.dockerfile.errors import DockerfileError, Span
from pybuild.dockerfile.parse import Dockerfile
from pybuild.oci.digest import Digest
from pybuild.oci.platform import Platform
from pybuild.oci.reference import Reference
from pybuild.plan.ops import BaseImage, Plan, RunOp, Step
from pybuild.store.store import Store


class Target(NamedTuple):
    """An image that is asked for: `request` and `plan` are those of its platform alone, `place` is its stage's index
    in the plan that is solved.
    """

    request: BuildRequest
    plan: Plan
    bases: Mapping[str, BaseImage]
    place: int


class Targets(NamedTuple):
    """What a build makes: one plan and the images it needs, by `FromImage.key`, for all that is asked for."""

    plan: Plan
    bases: Mapping[str, BaseImage]
    each: tuple[Target, ...]


PlanOne = Callable[[BuildRequest], tuple[Plan, Mapping[str, BaseImage]]]
"""Plans a request for one platform."""


def requests_of(request: BuildRequest, host: Platform) -> dict[Platform, BuildRequest]:
    """Return what `request` asks for each platform that it names; raise UsageError."""
    from pybuild.plan.platforms import platforms_of

    wanted = platforms_of(request.platform, host)
    return {platform: request._replace(platform=str(platform)) for platform in wanted}


def plan_all(request: BuildRequest, host: Platform, plan_one: PlanOne) -> Targets:
    """Plan a request for each of its platforms; raises what `plan_one` raises."""
    if "," not in request.platform:
        plan, bases = plan_one(request)
        return Targets(plan, bases, (Target(request, plan, bases, plan.target.index),))
    from pybuild.plan.platforms import key_for, merge

    requests = requests_of(request, host)
    if len(requests) == 1:
        return plan_all(next(iter(requests.values())), host, plan_one)
    planned = {platform: plan_one(own) for platform, own in requests.items()}
    merged = merge({platform: plan for platform, (plan, _) in planned.items()})
    places = dict(zip(planned, merged.targets, strict=True))
    each = tuple(
        Target(requests[platform], plan, bases, places[platform]) for platform, (plan, bases) in planned.items()
    )
    together = {key_for(key, platform): base for platform, (_, bases) in planned.items() for key, base in bases.items()}
    return Targets(merged.plan, together, each)


def check_emulators(plan: Plan, dockerfile: Dockerfile, host: Platform, request: BuildRequest, store: Store) -> None:
    """Raise DockerfileError at the first RUN for a processor whose programs this machine cannot run.

    One that may have a result already, from here or from elsewhere, is left to its turn.
    """
    foreign: dict[Platform, list[Step]] = {}
    for stage in plan.stages:
        if stage.platform.architecture != host.architecture:
            steps = [step for step in stage.steps if isinstance(step.op, RunOp)]
            foreign.setdefault(stage.platform, []).extend(steps)
    if not any(foreign.values()) or request.cache_from:
        return
    from pybuild.engine.explaining import was_run
    from pybuild.sandbox.advice import EMULATOR
    from pybuild.sandbox.foreign import can_run

    for platform, steps in foreign.items():
        new = [step for step in steps if not was_run(store, step)]
        if not new or can_run(platform, store.place.temporary()):
            continue
        step = new[0]
        lines = dockerfile.text.split("\n")[step.line - 1 : step.end_line]
        raise DockerfileError(
            f"RUN needs an emulator of {platform}, which this machine ({host}) does not have",
            EMULATOR,
            file=dockerfile.name,
            span=Span(step.line, step.end_line, 1, max(len(lines[0].rstrip()), 1) if lines else 1),
            source="\n".join(lines),
        )


def put_index(store: Store, images: Sequence[Digest], tags: Sequence[Reference]) -> Digest:
    """Keep an index of images, let `tags` point at it, and return its id."""
    members = [store.images.member(image) for image in images]
    return store.indexes.put(members, tags=[str(tag) for tag in tags])
