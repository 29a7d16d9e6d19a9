/** A back end that publishes: amqplib, with confirms, as README shows it. */
import { connect, type ChannelModel, type ConfirmChannel } from "amqplib";

/** What an event may bear besides its body. */
interface Properties {
  /** The AMQP `type`, which becomes the name of the event. */
  type?: string;
  messageId?: string;
  headers?: Record<string, string>;
}

export class Producer {
  private constructor(
    private readonly connection: ChannelModel,
    private readonly channel: ConfirmChannel,
  ) {}

  static async connect(rabbitmqUrl: string): Promise<Producer> {
    const connection = await connect(rabbitmqUrl);
    // Without a listener, the end of a broker that a test kills would end this process.
    connection.on("error", () => undefined);
    const channel = await connection.createConfirmChannel();
    channel.on("error", () => undefined);
    return new Producer(connection, channel);
  }

  /** Publishes an event, persistent. Resolves once the broker has confirmed it. */
  publish(topic: string, data: unknown, properties: Properties = {}): Promise<void> {
    return this.publishText(topic, JSON.stringify(data), properties);
  }

  /** The same, for a body that is not JSON. */
  async publishText(topic: string, body: string, properties: Properties = {}): Promise<void> {
    const options = { ...properties, persistent: true };
    await new Promise<void>((resolve, reject) => {
      const confirmed = (error: unknown) => (error ? reject(error as Error) : resolve());
      this.channel.publish("events.topic", topic, Buffer.from(body), options, confirmed);
    });
  }

  /** Publishes the numbers from `first` to `last`, each as the body of an event. */
  async publishNumbers(topic: string, first: number, last: number, properties: Properties = {}): Promise<void> {
    await Promise.all(numbers(first, last).map((number) => this.publish(topic, number, properties)));
  }

  async close(): Promise<void> {
    await this.connection.close();
  }
}

/** The whole numbers from `first` to `last`. */
export function numbers(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
