"""BuildKit's control service (`moby.buildkit.v1.Control`) and the gateway that frontends speak to (`LLBBridge`).

Clients such as buildx drive the frontend themselves: `Control/Solve` stays open while `LLBBridge/Solve` builds, and
`LLBBridge/Return` says which result is meant; then the exporters run and `Control/Solve` is answered. Others name the
frontend in `Control/Solve` at once. Definitions in LLB are refused: there is no engine for them here.
"""

import asyncio
import platform
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pybuild import __version__
from pybuild.buildkit import exporting, messages, questions
from pybuild.buildkit.attributes import FRONTENDS, GATEWAY, asked
from pybuild.buildkit.definitions import definition_of, image_of
from pybuild.buildkit.grpc import Call, Code, GrpcError, Handler, only
from pybuild.buildkit.host import Host
from pybuild.buildkit.http2 import Connection
from pybuild.buildkit.jobs import Job, Jobs, Outcome
from pybuild.buildkit.progress import stamp
from pybuild.buildkit.sessions import Session, Sessions
from pybuild.errors import PybuildError, UsageError
from pybuild.oci.platform import host_platform
from pybuild.plan.contexts import IMAGE

_CONTROL, _BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
_BUILD_ID = "buildkit-controlapi-buildid"

CAPABILITIES = (
    *("solve.base", "solve.inlinereturn", "return", "returnmap", "proto.refarray", "importcaches", "frontend.inputs"),
    *("frontend.caps", "gateway.solve.metadata", "gateway.evaluate", "gateway.solve.evaluate"),
    "reference.output",
)
"""What of the gateway is answered, by BuildKit's names."""

CACHES, MADE_OF_OTHERS = ("cache", "kept", "download", "exec.cachemount"), ("context", "snapshot")
"""Kinds of what goes with the cache, and with `all`."""

T = TypeVar("T")


class Services:
    """The services of one daemon."""

    def __init__(self, host: Host, sessions: Sessions) -> None:
        self._host = host
        self._sessions = sessions
        self._jobs = Jobs()

    def methods(self) -> dict[str, Handler]:
        """Return what is answered, by path."""
        control = {
            "Info": self.info,
            "ListWorkers": self.list_workers,
            "DiskUsage": self.disk_usage,
            "Prune": self.prune,
            "Session": self.session,
            "Solve": self.solve,
            "Status": self.status,
            "ListenBuildHistory": self.history,
        }
        bridge = {
            "Ping": self.ping,
            "Solve": self.bridge_solve,
            "Return": self.bridge_return,
            "Inputs": self.nothing,
            "Evaluate": self.nothing,
            "Warn": self.nothing,
        }
        return {
            **{_CONTROL + name: handler for name, handler in control.items()},
            **{_BRIDGE + name: handler for name, handler in bridge.items()},
        }

    # -- what there is

    async def info(self, call: Call) -> None:
        """`Control/Info`"""
        await only(call)
        await call.send(messages.INFO.encode({"version": _version()}))

    async def list_workers(self, call: Call) -> None:
        """`Control/ListWorkers`"""
        await only(call)
        await call.send(messages.WORKERS.encode({"record": [_worker()]}))

    async def disk_usage(self, call: Call) -> None:
        """`Control/DiskUsage`: cache mounts one by one, all else by its kind"""
        await only(call)
        images = (await self._host.engine()).images
        used = await self._host.in_thread(images.df)
        records = [
            {
                "ID": f"cache-{number}",
                "Mutable": True,
                "Size": cache["size"],
                "CreatedAt": stamp(cache["created"]),
                "LastUsedAt": stamp(cache["last_used"]),
                "UsageCount": 1,
                "Description": f"cached mount {cache['target']} {cache['id']}".replace("  ", " "),
                "RecordType": "exec.cachemount",
            }
            for number, cache in enumerate(used["caches"])
        ]
        # The caches are a row of their own there
        records += [
            {
                "ID": row["type"].lower().replace(" ", "-"),
                "InUse": row["reclaimable"] < row["size"],
                "Size": row["size"],
                "CreatedAt": stamp(0),
                "Description": row["type"],
                "RecordType": "regular",
            }
            for row in used["rows"]
            if "mount" not in row["type"].lower()
        ]
        await call.send(messages.DISK_USAGE.encode({"record": records}))

    async def prune(self, call: Call) -> None:
        """`Control/Prune`: what the cache holds; images stay, also with `all`, unless room is asked for"""
        asked_ = messages.PRUNE.decode(await only(call))
        images = (await self._host.engine()).images
        filters: dict[str, list[str]] = {}
        if asked_["keepDuration"] > 0:
            filters["until"] = [f"{asked_['keepDuration'] // 1_000_000_000}s"]
        if asked_["maxUsedSpace"] > 0:
            filters["max-size"] = [str(asked_["maxUsedSpace"])]
        if asked_["minFreeSpace"] > 0:
            filters["min-free"] = [str(asked_["minFreeSpace"])]
        if "max-size" not in filters and "min-free" not in filters:
            filters["type"] = [*CACHES, *(MADE_OF_OTHERS if asked_["all"] else ())]
        report = await self._host.in_thread(lambda: images.prune(all=False, filters=filters, dry_run=False))
        for item in report["items"]:
            record = {
                "ID": item["name"],
                "Size": item["size"],
                "CreatedAt": stamp(0),
                "LastUsedAt": stamp(item["last_used"] or 0),
                "Description": item["reason"],
                "RecordType": item["kind"],
            }
            await call.send(messages.USAGE.encode(record))

    async def history(self, call: Call) -> None:
        """`Control/ListenBuildHistory`: none is kept; `pybuild explain` tells of builds"""
        await only(call)
        call.start()

    # -- sessions

    async def session(self, call: Call) -> None:
        """`Control/Session`: the messages are the bytes of a connection on which we are the client"""
        call.start()
        connection = Connection(lambda data: call.post(messages.BYTES.encode({"data": data})), is_client=True)
        serving = asyncio.create_task(self._sessions.serve(Session(call.metadata, connection)))
        try:
            while not serving.done():
                message = await call.receive()
                if message is None:
                    break
                connection.receive(messages.BYTES.decode(message)["data"])
        finally:
            connection.lost()
            await serving

    # -- builds

    async def solve(self, call: Call) -> None:
        """`Control/Solve`"""
        request = messages.SOLVE.decode(await only(call))
        job = self._jobs.begin(request["Ref"], request)
        try:
            answer = await _while_wanted(call, job, self._solve(job))
        except BaseException as error:
            job.close(error.message if isinstance(error, PybuildError) else "the build was given up")
            raise
        job.close()
        await call.send(messages.SOLVED.encode({"ExporterResponse": answer}))

    async def _solve(self, job: Job) -> dict[str, str]:
        request = job.request
        exporters = request["Exporters"]
        if not exporters and request["ExporterDeprecated"]:
            exporters = [{"Type": request["ExporterDeprecated"], "Attrs": request["ExporterAttrsDeprecated"]}]
        exporting.check([exporter["Type"] for exporter in exporters])
        if request["Definition"] and request["Frontend"] == "" and not request["Internal"]:
            raise GrpcError(Code.UNIMPLEMENTED, "definitions in LLB are not supported: build a Dockerfile")
        if request["Frontend"]:
            outcome = await self._frontend(
                job, request["Frontend"], request["FrontendAttrs"], request["FrontendInputs"]
            )
        else:
            outcome = await job.returned
        if not outcome.image_id or not exporters:
            return outcome.told
        session = await self._sessions.get(request["Session"])
        engine = await self._host.engine()
        work = exporting.Exporting(job, session, engine, self._host.store_root)
        return {**outcome.told, **await self._build(job, lambda: work.run(outcome, exporters))}

    async def _frontend(
        self,
        job: Job,
        name: str,
        attributes: dict[str, str],
        inputs: dict[str, bytes],
        imports: Sequence[dict[str, Any]] = (),
    ) -> Outcome:
        if name == GATEWAY and _is_dockerfile(attributes.get("source", "")):
            name = "dockerfile.v0"
        if name not in FRONTENDS or not name:
            raise GrpcError(Code.UNIMPLEMENTED, f"unknown frontend, only dockerfile.v0 is built in: {name}")
        # Not before it is needed: this is most of what there is to import
        from pybuild.buildkit.solving import Solving

        request = job.request
        cache = request["Cache"] or {"Imports": [], "Exports": []}
        wanted = asked(
            attributes,
            imports=[*cache["Imports"], *imports],
            exports=cache["Exports"],
            allow=request["Entitlements"],
        )
        questions.check(wanted.call)
        for context, key in wanted.inputs.items():
            if key not in inputs:
                raise UsageError(f"the client sent no result for the context {context}: {key}")
            # An id of an image is a name for it in the store
            wanted.request.build_contexts[context] = IMAGE + image_of(inputs[key])  # type: ignore[index]
        session = await self._sessions.get(request["Session"])
        engine = await self._host.engine()
        solving = Solving(job, session, wanted, engine, self._host.store_root)
        outcome, last = await self._build(job, lambda: solving.run(self._host.within_limits))
        if last is not None:
            self._host.done(last)
        return outcome

    async def _build(self, job: Job, work: Callable[[], T]) -> T:
        """Do in a thread what counts as a build; it ends soon when the job is given up."""
        self._host.begin_build(job.cancel)
        try:
            return await asyncio.shield(asyncio.ensure_future(self._host.in_thread(work)))
        finally:
            self._host.end_build(job.cancel)

    async def status(self, call: Call) -> None:
        """`Control/Status`"""
        ref = messages.STATUS_REQUEST.decode(await only(call))["Ref"]
        job = await self._jobs.get(ref)
        call.start()
        async for message in job.messages():
            await call.send(message)

    # -- the gateway

    async def ping(self, call: Call) -> None:
        """`LLBBridge/Ping`"""
        await only(call)
        capabilities = [{"ID": name, "Enabled": True} for name in CAPABILITIES]
        await call.send(messages.PONG.encode({"FrontendAPICaps": capabilities, "Workers": [_worker()]}))

    async def nothing(self, call: Call) -> None:
        """`LLBBridge/Inputs`, `Evaluate` and `Warn`: results are there already, and clients warn themselves"""
        await only(call)
        await call.send(b"")

    async def bridge_solve(self, call: Call) -> None:
        """`LLBBridge/Solve`"""
        request = messages.GATEWAY_SOLVE.decode(await only(call))
        job = await self._jobs.get(call.one(_BUILD_ID))
        if request["Definition"]:
            # One that we gave away: its result is there
            await self._answer(call, job, Outcome(image_of(request["Definition"])))
            return
        if not request["Frontend"]:
            # The empty result, which clients ask for to find out whether anybody answers
            await call.send(messages.GATEWAY_SOLVED.encode({"result": {"ref": {}}}))
            return
        work = self._frontend(
            job, request["Frontend"], request["FrontendOpt"], request["FrontendInputs"], request["CacheImports"]
        )
        await self._answer(call, job, await _while_wanted(call, job, work))

    async def _answer(self, call: Call, job: Job, outcome: Outcome) -> None:
        ref = secrets.token_hex(12) if outcome.image_id else ""
        job.outcomes[ref] = outcome
        definition = definition_of(outcome.image_id) if outcome.image_id else b""
        result = {"ref": {"id": ref, "def": definition}, "metadata": outcome.metadata}
        await call.send(messages.GATEWAY_SOLVED.encode({"result": result}))

    async def bridge_return(self, call: Call) -> None:
        """`LLBBridge/Return`"""
        request = messages.RETURN.decode(await only(call))
        job = await self._jobs.get(call.one(_BUILD_ID))
        if not job.returned.done():
            if request["error"]:
                status = messages.STATUS.decode(request["error"])
                job.returned.set_exception(GrpcError(status["code"], status["message"], request["error"]))
            else:
                job.returned.set_result(_chosen(job, request["result"]))
        await call.send(b"")


def _chosen(job: Job, result: dict[str, Any] | None) -> Outcome:
    result = result or {}
    ids = [result.get("refDeprecated", ""), (result.get("ref") or {}).get("id", "")]
    ids += [ref["id"] for ref in ((result.get("refs") or {}).get("refs") or {}).values()]
    return next((job.outcomes[name] for name in ids if name in job.outcomes), Outcome())


async def _while_wanted(call: Call, job: Job, work: Coroutine[Any, Any, T]) -> T:
    """Wait for `work`; when the client gives the call up the job is given up, and `work` ends soon."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(call.gone())
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            job.cancel.set()
            if not job.returned.done():
                job.returned.set_exception(GrpcError(Code.CANCELLED, "the build was cancelled"))
        return await working
    finally:
        gone.cancel()
        if job.returned.done() and not job.returned.cancelled():
            # Whoever asks for it has been told; nobody may ask
            job.returned.exception()


def _is_dockerfile(source: str) -> bool:
    from pybuild.dockerfile.directives import is_builtin_syntax

    return bool(source) and is_builtin_syntax(source)


def _version() -> dict[str, str]:
    return {"package": "pybuild", "version": __version__, "revision": ""}


def _worker() -> dict[str, Any]:
    here = host_platform(platform.machine())
    return {
        "ID": "pybuild",
        "Labels": {"org.mobyproject.buildkit.worker.executor": "pybuild"},
        "platforms": [{"Architecture": here.architecture, "OS": here.os, "Variant": here.variant or ""}],
        "version": _version(),
    }
