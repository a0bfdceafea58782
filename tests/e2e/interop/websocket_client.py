"""Talks to websocket_server.py and fails at the first thing that is not as it should be."""

import argparse
import asyncio
import os

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def echoes(connection):
    for message in ["", "hello", "\u263a \U0001f608", b"\x00\xff", "x" * 125, b"y" * 126, "z" * 65536]:
        await connection.send(message)
        assert await connection.recv() == message, message[:20]
    # Many under way at once come back in order.
    messages = [f"message {number}" for number in range(500)]
    sending = asyncio.create_task(send_all(connection, messages))
    assert [await connection.recv() for _ in messages] == messages
    await sending


async def send_all(connection, messages):
    for message in messages:
        await connection.send(message)


async def fragments(connection):
    parts = ["so much ", "depends ", "upon"]
    await connection.send(parts)
    received = [part async for part in connection.recv_streaming()]
    # The end is a fragment of its own, without bytes.
    assert [part for part in received if part] == parts, received


async def pings(connection):
    for data in [b"", b"data", b"p" * 125]:
        await (await connection.ping(data))


async def big(connection):
    message = os.urandom(8 << 20)
    await connection.send(message)
    assert await connection.recv() == message


async def converse(url, options):
    # With compression, which is an extension that both ends agree on, and without.
    for compression, extensions in [("deflate", 1), (None, 0)]:
        async with connect(url, compression=compression, **options) as connection:
            assert len(connection.protocol.extensions) == extensions
            for check in [echoes, fragments, pings, big]:
                await asyncio.wait_for(check(connection), 20)


async def ends(url, options):
    async with connect(url, subprotocols=["talk.v1"], **options) as connection:
        assert connection.subprotocol == "talk.v1"
        await connection.close(4002, "enough")
    async with connect(f"{url}/closed", **options) as connection:
        try:
            await connection.recv()
            raise AssertionError("the connection was not closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "go away"), closed
    try:
        async with connect(f"{url}/refused", **options):
            raise AssertionError("the connection was not refused")
    except InvalidStatus as refused:
        assert (refused.response.status_code, refused.response.body) == (403, b"not you\n"), refused


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--host", help="connect there, whatever the URL says")
    parser.add_argument("--proxy")
    arguments = parser.parse_args()
    options = {"max_size": None, "proxy": arguments.proxy}
    if arguments.host:
        options["host"] = arguments.host
    await converse(arguments.url, options)
    await ends(arguments.url, options)
    print("all as it should be")


asyncio.run(main())
