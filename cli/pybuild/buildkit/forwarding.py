"""The client's ssh agents, each as a socket here: every connection is a stream to the client (SSH/ForwardAgent)."""

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Event as Flag

from pybuild.api.request import Agent
from pybuild.buildkit import messages
from pybuild.buildkit.grpc import Code, GrpcError, open_call
from pybuild.buildkit.sessions import Session
from pybuild.errors import PybuildError

CHECK, FORWARD = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"
_BLOCK = 64 << 10


def agents(session: Session | None, text: bytes, cancel: Flag, stack: ExitStack) -> tuple[Agent, ...]:
    """Return the agents that a Dockerfile's mounts name and the client has; their sockets are there until the end."""
    if session is None or not session.serves(FORWARD) or b"type=ssh" not in text:
        return ()
    found = []
    for name in _names(text):
        try:
            session.ask(CHECK, messages.CHECK_AGENT.encode({"ID": name}))
        except GrpcError as error:
            if error.code in (Code.CANCELLED, Code.UNAVAILABLE):
                raise
            # The step that needs it says so
            continue
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="pybuild-"))
        path = Path(place) / "agent"
        server = asyncio.run_coroutine_threadsafe(_listen(session, name, path), session.loop).result()
        stack.callback(session.loop.call_soon_threadsafe, server.close)
        found.append(Agent(name, (str(path),)))
    return tuple(found)


def _names(text: bytes) -> list[str]:
    from pybuild.dockerfile.instructions import Run
    from pybuild.dockerfile.parse import parse

    try:
        parsed = parse(text)
    except PybuildError:
        # The build will tell it, with its place
        return []
    names: dict[str, None] = {}
    for stage in parsed.stages:
        for instruction in stage.instructions:
            if isinstance(instruction, Run):
                for mount in instruction.mounts:
                    values = dict(part.partition("=")[::2] for part in mount.split(","))
                    if values.get("type") == "ssh":
                        names[values.get("id") or "default"] = None
    return [*names]


async def _listen(session: Session, name: str, path: Path) -> asyncio.AbstractServer:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = open_call(session.connection, FORWARD, [("buildkit.ssh.id", name)])

        async def answers() -> None:
            while (message := await call.receive()) is not None:
                writer.write(messages.BYTES.decode(message)["data"])
                await writer.drain()

        receiving = asyncio.create_task(answers())
        try:
            while data := await reader.read(_BLOCK):
                await call.send(messages.BYTES.encode({"data": data}))
            call.end()
            await receiving
        except (GrpcError, OSError):
            # One of the two is gone: so is the conversation
            pass
        finally:
            receiving.cancel()
            call.cancel()
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    path.chmod(0o600)
    return server
