/** Once for a run: the node of RabbitMQ that its workers share, and the promise that all of it is gone afterwards. */
import { startEpmd, startSharedRabbitMq } from "./harness/rabbitmq";
import { beginRun } from "./harness/run";

export default async function globalSetup(): Promise<() => Promise<void>> {
  const endRun = beginRun();
  await startEpmd();
  await startSharedRabbitMq();
  return endRun;
}
