// Sends a Celery task to RabbitMQ, and waits for the result of its import.
// node task-rabbitmq.mjs IMPORT_ID APP_ID; the broker is AMQP_URL, the result backend REDIS_URL

import amqp from "amqplib";
import { createClient } from "redis";

import { QUEUE, resultOf, taskMessage } from "./celery.mjs";

const [importId, appId] = process.argv.slice(2);
const { headers, body } = taskMessage("imports.import_backend_auth", importId, {
  appId,
  backendEnvironmentName: "prod",
  userPoolId: "eu-central-1_AbCdEf123",
  webClientId: "3n4b5urk1ft4fl3mg5e62d9ado",
  nativeClientId: "6k1b2urk1ft4fl3mg5e62d9xyz",
});

const connection = await amqp.connect(process.env.AMQP_URL);
try {
  const channel = await connection.createConfirmChannel();
  await channel.checkQueue(QUEUE); // workers declare it; without it the message would be dropped
  channel.publish("", QUEUE, Buffer.from(body), {
    headers,
    contentType: "application/json",
    contentEncoding: "utf-8",
    correlationId: importId,
    persistent: true,
  });
  await channel.waitForConfirms(); // throws unless RabbitMQ has taken the message
} finally {
  await connection.close();
}

const redis = createClient({ url: process.env.REDIS_URL });
await redis.connect();
try {
  console.log(JSON.stringify(await resultOf(redis, importId)));
} finally {
  redis.destroy();
}
