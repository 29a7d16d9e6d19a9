/** Once for a run: the node of RabbitMQ that its workers share, and the promise that all of it is gone afterwards. */
import { JWT_SECRET } from "./harness/bridge";
import { PASSWORD, startEpmd, startSharedRabbitMq } from "./harness/rabbitmq";
import { beginRun, runFolder } from "./harness/run";
import { searchOutput } from "./harness/secrets";

export default async function globalSetup(): Promise<() => Promise<void>> {
  const endRun = beginRun();
  await startEpmd();
  await startSharedRabbitMq();
  return async () => {
    try {
      searchOutput(runFolder(), [JWT_SECRET, PASSWORD]);
    } finally {
      await endRun();
    }
  };
}
