"""Publishes the messages on stdin, one JSON object a line, to the URL given, with aio-pika, as a back end would."""

import asyncio
import json
import sys

import aio_pika


async def main() -> None:
    connection = await aio_pika.connect_robust(sys.argv[1])
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("events.topic")
        for line in sys.stdin:
            message = json.loads(line)
            await exchange.publish(
                aio_pika.Message(
                    message["body"].encode(),
                    headers=message.get("headers"),
                    type=message.get("type"),
                    message_id=message.get("message_id"),
                    content_type="application/json",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                ),
                routing_key=message["topic"],
                mandatory=True,
            )


asyncio.run(main())
