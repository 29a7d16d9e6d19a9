#!/usr/bin/env python3
"""What comes after one machine, in numbers: fits what a replica and RabbitMQ take to the tables beside this file, says how far the fit is
from each measured line, and prints the tables of SCALING.md. Reads files, writes to standard output; needs nothing but Python."""

import csv
import pathlib

HERE = pathlib.Path(__file__).parent
# How much of a core may be used in the long run, so that a burst, or a replica that is gone, has room.
USED = 0.6


def table(name):
    """The rows of a measured table, as numbers; the first column is what was varied."""
    with open(HERE / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]


def fit(rows):
    """Coefficients >= 0 whose sum of squared relative errors is least. A row is what was measured, and what each coefficient is times.
    Coordinate descent: few unknowns, and the problem is convex."""
    coefficients = [0.0] * len(rows[0][1])
    for _ in range(20_000):
        for index in range(len(coefficients)):
            above = below = 0.0
            for measured, factors in rows:
                others = sum(c * f for c, f in zip(coefficients, factors)) - coefficients[index] * factors[index]
                above += (measured - others) * factors[index] / measured**2
                below += factors[index] ** 2 / measured**2
            coefficients[index] = max(0.0, above / below)
    return coefficients


def predicted(coefficients, factors):
    return sum(c * f for c, f in zip(coefficients, factors))


def markdown(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def check(what, coefficients, rows, names):
    lines = []
    for (measured, factors), name in zip(rows, names):
        model = predicted(coefficients, factors)
        lines.append([name, f"{measured:.3f}", f"{model:.3f}", f"{100 * (model / measured - 1):+.0f} %"])
    print(f"{what}, in cores:\n")
    markdown(["measured with", "measured", "model", "off by"], lines)


# From this many events a second on the consumer is never idle for long: what waking up costs grows no more.
BUSY = 1_000
# Events that come faster than this, to each of 1,000 clients, are written several at once and cost less: the fit is to those that are not.
ONE_BY_ONE = 100


def replica():
    """Cores of a replica: so much for a consumer that is kept busy, so much an event, so much a delivery of an event that comes alone."""
    rows, names = [], []
    for rate, _, micros, _ in table("growth-ingest"):
        rows.append((rate * micros / 1e6, [min(1, rate / BUSY), rate, 0]))
        names.append(f"{rate:,.0f} events/s that nobody hears")
    for replicas, rate, _, _, micros in table("growth-readers"):
        rows.append((rate * micros / 1e6, [0, rate, 0]))
        names.append(f"{rate:,.0f} events/s that waited, {replicas:.0f} replicas")
    for clients, micros, _, deliveries, *_ in table("growth-clients"):
        rate = deliveries / clients
        rows.append((deliveries * micros / 1e6, [min(1, rate / BUSY), rate, deliveries]))
        names.append(f"{clients:,.0f} clients, {deliveries:,.0f} deliveries/s")
    for rate, micros, _, deliveries, *_ in table("growth-events"):
        if rate <= ONE_BY_ONE:
            rows.append((deliveries * micros / 1e6, [min(1, rate / BUSY), rate, deliveries]))
            names.append(f"1,000 clients, {rate:,.0f} events/s")
    coefficients = fit(rows)
    check("A replica", coefficients, rows, names)
    return coefficients


def broker():
    """Cores of RabbitMQ: so much for a stream and for each replica that reads it, once they are kept busy, so much for an event that is
    published, and for each that a replica reads."""
    rows, names = [], []
    for rate, micros, _, _ in table("growth-ingest"):
        if rate >= BUSY:
            rows.append((rate * micros / 1e6, [1, 1, rate, rate]))
            names.append(f"1 replica, {rate:,.0f} events/s")
    for replicas, micros, _, _ in table("growth-replicas"):
        rows.append((micros * 1_000 / 1e6, [1, replicas, 1_000, replicas * 1_000]))
        names.append(f"{replicas:.0f} replicas, 1,000 events/s")
    for replicas, _, of_all, micros, _ in table("growth-readers"):
        # Nothing is published, and nobody waits for anything.
        rows.append((of_all * micros / 1e6, [0, 0, 0, of_all]))
        names.append(f"{replicas:.0f} replicas that read what waits")
    coefficients = fit(rows)
    check("RabbitMQ", coefficients, rows, names)
    return coefficients


def main():
    base, event, delivery = replica()
    stream, reader, published, read = broker()
    print(f"A replica: {base:.2f} cores + {event * 1e6:.1f} us an event of the stream + {delivery * 1e6:.2f} us a delivery.")
    print(
        f"RabbitMQ: {stream:.2f} cores + {reader:.2f} a replica + {published * 1e6:.0f} us an event + {read * 1e6:.1f} us an event and replica.\n"
    )

    room = 2 * USED
    print(f"Clients of a replica of 2 cores, used to {USED:.0%}, in teams of 1,000, by the processor; events one by one:\n")
    lines = []
    for each in [0.01, 0.1, 1, 10, 100]:
        # Every 1,000 clients are one event more, for each that they get.
        a_client = each * (delivery + event / 1_000)
        clients = room / (a_client + each / 1_000 * base / BUSY)
        if clients * each / 1_000 > BUSY:
            clients = (room - base) / a_client
        lines.append([f"{each:g}", f"{clients:,.0f}", f"{clients * each:,.0f}"])
    markdown(["events/s to each", "clients", "deliveries/s"], lines)

    print(f"Events a second of one stream, where RabbitMQ has 8 cores and a replica 2, both used to {USED:.0%}:\n")
    lines = []
    for replicas in [1, 2, 4, 8, 16, 32]:
        of_broker = (8 * USED - stream - reader * replicas) / (published + read * replicas)
        of_replica = (room - base) / event
        limit = "RabbitMQ" if of_broker < of_replica else "the replicas' own reading"
        lines.append([str(replicas), f"{of_broker:,.0f}", f"{of_replica:,.0f}", limit])
    markdown(["replicas", "that RabbitMQ carries", "that a replica reads", "the limit"], lines)

    print("The same 20,000 events a second, each for 10 clients, in one stream or in several that each have their share of the replicas:\n")
    lines = []
    for replicas in [8, 32]:
        for partitions in [1, 2, 4, 8]:
            share = 20_000 / partitions
            reading = base + event * share
            of_broker = partitions * stream + replicas * reader + 20_000 * published + replicas * share * read
            deliveries = 10 * 20_000 / replicas * delivery
            lines.append([f"{replicas}", f"{partitions}", f"{of_broker:.1f}", f"{reading:.2f}", f"{deliveries:.2f}"])
    markdown(["replicas", "streams", "cores of RabbitMQ", "of each replica, to read", "of each replica, to deliver"], lines)


if __name__ == "__main__":
    main()
