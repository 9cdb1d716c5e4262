"""`GET /events`: what happened to images through this daemon; what builds of other processes do is not seen."""

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from pybuild.api.events import Built, Event, Pulled, Pushed
from pybuild.errors import UsageError

KEPT = 256
"""How many are remembered for `since`, as many as Docker does."""

WAITING = 4096
"""A client that has not read that many is left."""

_OF_OTHERS = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")


class Happenings:
    """The latest events and who listens. Used from the loop only."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()
        self._last = 0

    def tell(self, action: str, identity: str, attributes: Mapping[str, str], *, kind: str = "image") -> None:
        """Note an event of an image; `attributes` are its name and labels."""
        # Two never have the same time, so that who asks with `since` for what follows one misses none
        self._last = moment = max(time.time_ns(), self._last + 1)
        event = {
            "status": action,
            "id": identity,
            "Type": kind,
            "Action": action,
            "Actor": {"ID": identity, "Attributes": dict(attributes)},
            "scope": "local",
            "time": moment // 10**9,
            "timeNano": moment,
        }
        self._kept.append(event)
        for queue in [*self._listeners]:
            if queue.full():
                self._listeners.discard(queue)
            else:
                queue.put_nowait(event)

    def image(self, action: str, image: Mapping[str, Any], name: str) -> None:
        """Note an event of an image, which is as `Images.inspect` has it."""
        labels = (image.get("Config") or {}).get("Labels") or {}
        self.tell(action, image["Id"], {**labels, "name": name})

    def done(self, last: Event) -> None:
        """Note what the last event of a build, a pull or a push means."""
        match last:
            case Built():
                for tag in last.tags:
                    self.tell("tag", last.image_id, {"name": tag})
            case Pulled() | Pushed():
                action = "pull" if isinstance(last, Pulled) else "push"
                for moved in last.images:
                    self.tell(action, moved.name, {"name": moved.name})

    def since(self, moment: float) -> list[dict[str, Any]]:
        """Return those kept that happened then or later, in seconds since the epoch."""
        return [event for event in self._kept if event["timeNano"] >= moment * 1e9]

    def heard(self, queue: "asyncio.Queue[dict[str, Any]]") -> bool:
        """Is a listener still told?"""
        return queue in self._listeners

    @contextmanager
    def listening(self) -> "Iterator[asyncio.Queue[dict[str, Any]]]":
        """Give a queue of what happens from now on."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)


HAPPENINGS: web.AppKey[Happenings] = web.AppKey("happenings", Happenings)


async def events(request: web.Request) -> web.StreamResponse:
    """`GET /events?since=&until=&filters=`: one JSON object a line, without an end unless `until` gives one"""
    from pybuild.daemon.answers import filters
    from pybuild.daemon.state import STATE

    happenings, stopping = request.app[HAPPENINGS], request.app[STATE].stopping
    wanted = _known(filters(request.query))
    since, until = moment(request.query.get("since")), moment(request.query.get("until"))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    with happenings.listening() as queue:
        past = happenings.since(since) if since is not None else []
        await response.prepare(request)
        for event in past:
            if (until is None or event["timeNano"] <= until * 1e9) and matches(event, wanted):
                await response.write(_line(event))
        stop = asyncio.ensure_future(stopping.wait())
        try:
            while happenings.heard(queue) or not queue.empty():
                left = None if until is None else until - time.time()
                if left is not None and left <= 0:
                    break
                following = asyncio.ensure_future(queue.get())
                await asyncio.wait([following, stop], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    break
                if matches(following.result(), wanted):
                    await response.write(_line(following.result()))
        finally:
            stop.cancel()
    await response.write_eof()
    return response


def moment(text: str | None) -> float | None:
    """Return a time in seconds since the epoch, None when it is not given; raise UsageError."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        from pybuild.engine.moments import parse_until

        return parse_until(text)
    if not math.isfinite(value):
        raise UsageError(f"not a time: {text}", "write seconds since the epoch")
    return value


def matches(event: Mapping[str, Any], wanted: Mapping[str, list[str]]) -> bool:
    """Is an event wanted: each filter by one of its values, of labels by all?"""
    attributes = event["Actor"]["Attributes"]
    for name, values in wanted.items():
        match name:
            case "type":
                found = event["Type"] in values
            case "event":
                found = event["Action"] in values
            case "scope":
                found = event["scope"] in values
            case "image":
                known = attributes.get("name", "")
                short = known.rpartition(":")[0] if ":" in known.rpartition("/")[2] else known
                found = bool({event["id"], known, short} & {*values})
            case "label":
                found = all(_labelled(attributes, value) for value in values)
            case _:
                found = False
        if not found:
            return False
    return True


def _labelled(attributes: Mapping[str, str], value: str) -> bool:
    key, equals, text = value.partition("=")
    return key in attributes and (not equals or attributes[key] == text)


def _known(wanted: dict[str, list[str]]) -> dict[str, list[str]]:
    ours = ("type", "event", "scope", "image", "label")
    for name in wanted:
        if name not in (*ours, *_OF_OTHERS):
            raise UsageError(f"invalid filter '{name}'", f"known: {', '.join(ours)}")
    # A filter without values asks for nothing
    return {name: values for name, values in wanted.items() if values}


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
