#!/usr/bin/env python3
"""What comes after one machine, in numbers: fits what a replica and RabbitMQ take to the tables beside this file, and says how far the fit is
from each measured line. With --write it puts its numbers into SCALING.md, between the marks there. Needs nothing but Python."""

import csv
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "SCALING.md"
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
    def line(cells):
        return "| " + " | ".join(cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


# From this many events a second on the consumer is never idle for long: what waking up costs grows no more.
BUSY = 1_000
# Events that come faster than this, to each of 1,000 clients, are written several at once and cost less: the fit is to those that are not.
ONE_BY_ONE = 100
# So many events a second of one audience, to however few clients, are about one in a flush window of 2 ms, and are sent together: the same.
GATHERED = 400


class Model:
    """Lines that were measured, as what each coefficient is times, and the coefficients that fit them."""

    def __init__(self, rows):
        self.names = [name for name, _, _ in rows]
        self.rows = [(measured, factors) for _, measured, factors in rows]
        self.coefficients = fit(self.rows)

    def off_by(self, which=lambda name: True):
        """By how much, in %, the model is off the lines of these names: the least and the most."""
        errors = [100 * (predicted(self.coefficients, factors) / measured - 1) for measured, factors in self.rows]
        return [error for name, error in zip(self.names, errors) if which(name)]

    def lines(self):
        told = [(f"{measured:.3f}", f"{predicted(self.coefficients, factors):.3f}") for measured, factors in self.rows]
        return markdown(
            ["measured with", "cores", "by the model", "off by"],
            [[name, *cores, f"{error:+.0f} %"] for name, cores, error in zip(self.names, told, self.off_by())],
        )


def replica():
    """Cores of a replica: so much for a consumer that is kept busy, so much an event, so much a delivery of an event that comes alone."""
    rows = []
    for rate, _, micros, _ in table("growth-ingest"):
        rows.append((f"{rate:,.0f} events/s that nobody hears", rate * micros / 1e6, [min(1, rate / BUSY), rate, 0]))
    for replicas, rate, _, _, micros in table("growth-readers"):
        rows.append((f"{rate:,.0f} events/s that waited, replicas: {replicas:.0f}", rate * micros / 1e6, [0, rate, 0]))
    for clients, micros, _, deliveries, *_ in table("growth-clients"):
        rate = deliveries / clients
        if rate >= GATHERED:
            continue
        factors = [min(1, rate / BUSY), rate, deliveries]
        rows.append((f"{clients:,.0f} clients, {deliveries:,.0f} deliveries/s", deliveries * micros / 1e6, factors))
    for rate, micros, _, deliveries, *_ in table("growth-events"):
        if rate <= ONE_BY_ONE:
            factors = [min(1, rate / BUSY), rate, deliveries]
            rows.append((f"1,000 clients, {rate:,.0f} events/s", deliveries * micros / 1e6, factors))
    return Model(rows)


def broker():
    """Cores of RabbitMQ: so much for a stream and for each replica that reads it, once they are kept busy, so much for an event that is
    published, and for each that a replica reads."""
    rows = []
    for rate, micros, _, _ in table("growth-ingest"):
        if rate >= BUSY:
            rows.append((f"{rate:,.0f} events/s, replicas: 1", rate * micros / 1e6, [1, 1, rate, rate]))
    for replicas, micros, _, _ in table("growth-replicas"):
        factors = [1, replicas, 1_000, replicas * 1_000]
        rows.append((f"1,000 events/s, replicas: {replicas:.0f}", micros * 1_000 / 1e6, factors))
    for replicas, _, of_all, micros, _ in table("growth-readers"):
        # Nothing is published, and nobody waits for anything.
        rows.append((f"{of_all:,.0f} events/s that waited, replicas: {replicas:.0f}", of_all * micros / 1e6, [0, 0, 0, of_all]))
    return Model(rows)


def about(number):
    """Three digits of it: no more is known."""
    return f"{float(f'{number:.3g}'):,.0f}"


def between(errors):
    return f"between {min(errors):+.0f} and {max(errors):+.0f} %".replace("-", "−")


def blocks(replica, broker):
    """What the page says, by the names of its marks."""
    base, event, delivery = replica.coefficients
    stream, reader, published, read = broker.coefficients
    room = 2 * USED
    told = {}

    told["formulas"] = f"""\
Of a replica, in cores: **{base:.2f}**, once {BUSY:,} events a second keep its consumer busy (below that in proportion), **+ {event * 1e6:.1f} µs for each event** of the
stream, whether somebody hears it or not, **+ {delivery * 1e6:.1f} µs for each delivery** of an event that comes alone.

Of RabbitMQ: **{stream:.2f} + {reader:.2f} for each replica**, once they are busy, **+ {published * 1e6:.0f} µs for each event, + {read * 1e6:.0f} µs for each event and replica**.

Off by, over the {len(replica.rows) + len(broker.rows)} lines that it was fitted to: RabbitMQ {between(broker.off_by())}; a replica with clients {between(replica.off_by(lambda name: "clients" in name))};
a replica that nobody listens to {between(replica.off_by(lambda name: "clients" not in name))}, all of which is at most {max(measured for name, (measured, _) in zip(replica.names, replica.rows) if "clients" not in name):.1f} of a core."""

    lines = []
    for each in [0.1, 1, 10, 100]:
        # Every 1,000 clients are one event more, for each that they get.
        a_client = each * (delivery + event / 1_000)
        clients = room / (a_client + each / 1_000 * base / BUSY)
        if clients * each / 1_000 > BUSY:
            clients = (room - base) / a_client
        lines.append([f"{each:g}", about(clients), about(clients * each)])
    told["clients"] = markdown(["events/s to each client, one by one", "clients", "deliveries/s"], lines)

    costs = {name: [row[1] * 1_000 / 1e6 for row in table(name)] for name in ["growth-replicas", "growth-replica-queues"]}
    told["replicas"] = markdown(
        ["replicas", *(f"{row[0]:.0f}" for row in table("growth-replicas"))],
        [
            ["RabbitMQ, cores, of one stream", *(f"{cores:.2f}" for cores in costs["growth-replicas"])],
            [
                "RabbitMQ, cores, with a queue for each replica (`classic`, `RABBITMQ_EVENTS_QUEUE_SCOPE=replica`)",
                *(f"{cores:.2f}" for cores in costs["growth-replica-queues"]),
            ],
        ],
    )

    told["readers"] = markdown(
        ["replicas", "records/s, of each", "of all", "RabbitMQ, µs a record read"],
        [[f"{replicas:.0f}", about(each), about(of_all), f"{micros:.0f}"] for replicas, each, of_all, micros, _ in table("growth-readers")],
    )

    lines, most = [], 0
    for replicas in [1, 2, 4, 8, 16, 32]:
        of_broker = (8 * USED - stream - reader * replicas) / (published + read * replicas)
        of_replica = (room - base) / event
        limit = "RabbitMQ" if of_broker < of_replica else "a replica"
        most = max(most, replicas * min(of_broker, of_replica))
        lines.append([str(replicas), about(of_broker), about(of_replica), limit])
    told["limits"] = (
        markdown(["replicas", "events/s that RabbitMQ carries", "that a replica has the processor for", "the limit"], lines)
        + f"""

The rule: **events a second times replicas is what one stream is sized by**; at about {round(most, -4):,.0f} of them a broker of 8 cores is full."""
    )

    lines = []
    for replicas in [8, 32]:
        for partitions in [1, 2, 4, 8]:
            share = 20_000 / partitions
            reading = base + event * share
            of_broker = partitions * stream + replicas * reader + 20_000 * published + replicas * share * read
            deliveries = 10 * 20_000 / replicas * delivery
            lines.append([f"{replicas}", f"{partitions}", f"{of_broker:.1f}", f"{reading:.2f}", f"{deliveries:.2f}"])
    told["streams"] = markdown(
        ["replicas in all", "streams", "cores of RabbitMQ", "of each replica, to read", "of each replica, to deliver"], lines
    )
    return told


def written(page, told):
    """The page with what is told between its marks, as far to the right as they stand. Each is there once."""
    left = dict(told)

    def block(match):
        blanks, name = match.group(1), match.group(2)
        lines = "".join(f"{blanks}{line}".rstrip() + "\n" for line in left.pop(name).split("\n"))
        return f"{blanks}<!-- model.py: {name} -->\n{lines}{blanks}<!-- end -->\n"

    page = re.sub(r"^( *)<!-- model\.py: (\w+) -->\n(?:.*\n)*?\1<!-- end -->\n", block, page, flags=re.MULTILINE)
    if left:
        raise ValueError(f"no place on the page for {', '.join(left)}")
    return page


def main():
    of_replica, of_broker = replica(), broker()
    told = blocks(of_replica, of_broker)
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), told), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(f"{sys.argv[0]} [--write]")
    else:
        print("A replica:", of_replica.lines(), "RabbitMQ:", of_broker.lines(), *told.values(), sep="\n\n")


if __name__ == "__main__":
    main()
