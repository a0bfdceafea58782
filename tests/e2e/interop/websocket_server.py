"""Echoes messages, fragment by fragment, and tells how connections end. Arguments: address and port."""

import asyncio
import http
import sys

from websockets.asyncio.server import serve


def refuse(connection, request):
    if request.path == "/refused":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")


def choose(connection, offered):
    return "talk.v1" if "talk.v1" in offered else None


async def converse(connection):
    if connection.request.path == "/closed":
        await connection.close(4001, "go away")
        return
    try:
        await (await connection.ping(b"are you there?"))
        while True:
            await connection.send(connection.recv_streaming())
    finally:
        await connection.wait_closed()
        print(f"closed with {connection.close_code}: {connection.close_reason}", flush=True)


async def main():
    address, port = sys.argv[1:]
    options = {"max_size": None, "process_request": refuse, "select_subprotocol": choose}
    async with serve(converse, address, int(port), **options) as server:
        await server.serve_forever()


asyncio.run(main())
