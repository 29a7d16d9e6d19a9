"""Publishes the messages on stdin, one JSON object a line, to the URL given, with pika, as a back end would whose texts
are in Latin-1: AMQP wants UTF-8 in short strings, but RabbitMQ takes any bytes."""

import json
import sys

import pika
import pika.data


def encode_short_string(pieces, value):
    encoded = value.encode("latin-1")
    pieces.append(bytes([len(encoded)]))
    pieces.append(encoded)
    return 1 + len(encoded)


pika.data.encode_short_string = encode_short_string

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
            delivery_mode=pika.DeliveryMode.Persistent,
        ),
        mandatory=True,
    )
connection.close()
