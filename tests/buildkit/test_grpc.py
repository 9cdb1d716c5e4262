"""Calls over HTTP/2 between two of our own ends: order, flow control, errors, ends of all kinds."""

import asyncio

import pytest

from pybuild.buildkit.grpc import Call, Code, GrpcError, only, open_call, unary
from pybuild.buildkit.http2 import CONNECTION_WINDOW, Connection
from pybuild.errors import UsageError
from support.grpc import Ends


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


async def told(call: Call) -> None:
    await call.send(",".join(call.metadata["x-many"]).encode() + b" " + await only(call))


async def refused(call: Call) -> None:
    await only(call)
    raise GrpcError(Code.NOT_FOUND, "no such thing: 100 % ü\n", b"\x08\x05")


async def misused(call: Call) -> None:
    raise UsageError("not so")


async def broken(call: Call) -> None:
    raise ZeroDivisionError("oh")


METHODS = {"/echo": echo, "/told": told, "/refused": refused, "/misused": misused, "/broken": broken}


def test_a_call_carries_metadata_and_its_answer() -> None:
    async def run() -> bytes:
        return await unary(Ends(METHODS).client, "/told", b"word", [("x-many", "a"), ("x-many", "b")])

    assert asyncio.run(run()) == b"a,b word"


def test_messages_over_all_windows_come_back_whole_and_in_order() -> None:
    block = bytes(range(256)) * 4096
    count = CONNECTION_WINDOW * 3 // len(block)

    async def run() -> None:
        call = open_call(Ends(METHODS).client, "/echo")

        async def send() -> None:
            for number in range(count):
                await call.send(number.to_bytes(2, "big") + block)
            call.end()

        sending = asyncio.create_task(send())
        for number in range(count):
            message = await call.receive()
            assert message is not None
            assert message[:2] == number.to_bytes(2, "big")
            assert message[2:] == block
        assert await call.receive() is None
        await sending

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/nothing", Code.UNIMPLEMENTED, "unknown method: /nothing"),
        ("/refused", Code.NOT_FOUND, "no such thing: 100 % ü\n"),
        ("/misused", Code.UNKNOWN, "not so"),
        ("/broken", Code.INTERNAL, "unexpected ZeroDivisionError: oh"),
    ],
)
def test_how_a_call_failed_is_told(path: str, code: Code, message: str) -> None:
    async def run() -> GrpcError:
        with pytest.raises(GrpcError) as failed:
            await unary(Ends(METHODS).client, path, b"")
        return failed.value

    error = asyncio.run(run())
    assert (error.code, error.message) == (code, message)
    assert error.details == (b"\x08\x05" if path == "/refused" else b"")


def test_a_call_that_is_given_up_ends_on_both_sides() -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def wait(call: Call) -> None:
            await call.gone()
            ended.set()

        ends = Ends({"/wait": wait})
        call = open_call(ends.client, "/wait")
        await call.send(b"x")
        call.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        with pytest.raises(GrpcError):
            await call.receive()

    asyncio.run(run())


def test_when_the_way_is_gone_all_that_wait_are_told() -> None:
    async def run() -> None:
        ends = Ends(METHODS)
        call = open_call(ends.client, "/echo")
        waiting = asyncio.create_task(call.receive())
        await asyncio.sleep(0)
        ends.client.lost()
        with pytest.raises(GrpcError, match="gone"):
            await waiting
        with pytest.raises(Exception, match="gone"):
            open_call(ends.client, "/echo")

    asyncio.run(run())


def test_a_message_that_is_too_long_or_compressed_is_refused() -> None:
    async def run(first: bytes) -> int:
        ends = Ends(METHODS)
        call = open_call(ends.client, "/echo")
        call._stream.write(first)
        call.end()
        with pytest.raises(GrpcError) as failed:
            await call.receive()
        return failed.value.code

    assert asyncio.run(run(b"\0\xff\xff\xff\xff")) == Code.RESOURCE_EXHAUSTED
    assert asyncio.run(run(b"\1\0\0\0\1x")) == Code.UNIMPLEMENTED
    assert asyncio.run(run(b"\0\0\0\0\5x")) == Code.INTERNAL


def test_bytes_that_are_not_http2_end_the_connection() -> None:
    async def run() -> None:
        written: list[bytes] = []
        connection = Connection(written.append, is_client=False)
        connection.receive(b"GET / HTTP/1.1\r\n\r\n" * 10)
        assert connection.closed.is_set()

    asyncio.run(run())
