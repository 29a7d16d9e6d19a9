"""Publishes the messages on stdin, one JSON object a line, to the URL given, with pika, but with the headers as the bytes
that are given in hexadecimal, whatever they say: RabbitMQ takes what no client library would send."""

import json
import struct
import sys

import pika
import pika.data

encode_table = pika.data.encode_table


def encode_bytes(pieces, table):
    if not isinstance(table, bytes):
        return encode_table(pieces, table)
    pieces.append(struct.pack(">I", len(table)))
    pieces.append(table)
    return 4 + len(table)


pika.data.encode_table = encode_bytes

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()
for line in sys.stdin:
    message = json.loads(line)
    channel.basic_publish(
        exchange=message.get("exchange", "events.topic"),
        routing_key=message["topic"],
        body=message["body"].encode(),
        properties=pika.BasicProperties(
            headers=bytes.fromhex(message["headers"]),
            delivery_mode=pika.DeliveryMode.Persistent,
        ),
        mandatory=True,
    )
connection.close()
