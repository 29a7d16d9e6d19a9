"""Publishes the messages on stdin, one JSON object a line, to the URL given, with pika, as a back end would."""

import json
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()
for line in sys.stdin:
    message = json.loads(line)
    channel.basic_publish(
        exchange="events.topic",
        routing_key=message["topic"],
        body=message["body"].encode(),
        properties=pika.BasicProperties(
            headers=message.get("headers"),
            type=message.get("type"),
            message_id=message.get("message_id"),
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
        ),
        mandatory=True,
    )
connection.close()
