"""The bridge that teams write by hand: FastAPI, aio-pika, a queue for each client. To be measured, not to be used.

It is written as well as it is usually written: an event is formatted once for all clients, and a client that is slow loses events.
It knows no resume, no history, no token.
"""

import asyncio
import os
from collections import defaultdict
from contextlib import asynccontextmanager

import aio_pika
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

clients: dict[str, set[asyncio.Queue]] = defaultdict(set)


async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    async with message.process():
        team = message.routing_key.split(".")[1]
        event = b"id: %d\ndata: %s\n\n" % (message.delivery_tag, message.body)
        for queue in clients[team]:
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                pass


@asynccontextmanager
async def lifespan(app: FastAPI):
    connection = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=512)
        exchange = await channel.declare_exchange("events.topic", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "team.#")
        await queue.consume(on_message)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/events")
async def events(team_id: str) -> StreamingResponse:
    async def stream():
        queue: asyncio.Queue = asyncio.Queue(maxsize=1024)
        clients[team_id].add(queue)
        try:
            yield b"retry: 2000\n\n"
            while True:
                yield await queue.get()
        finally:
            clients[team_id].discard(queue)

    return StreamingResponse(stream(), media_type="text/event-stream")
