// Sends a Celery task to a Redis broker, and waits for the result of its import.
// node task-redis.mjs IMPORT_ID APP_ID; broker and result backend are REDIS_URL

import { createClient } from "redis";

import { QUEUE, redisMessage, resultOf, taskMessage } from "./celery.mjs";

const [importId, appId] = process.argv.slice(2);
const message = taskMessage("imports.import_backend_auth", importId, {
  appId,
  backendEnvironmentName: "prod",
  userPoolId: "eu-central-1_AbCdEf123",
  webClientId: "3n4b5urk1ft4fl3mg5e62d9ado",
  nativeClientId: "6k1b2urk1ft4fl3mg5e62d9xyz",
});

const redis = createClient({ url: process.env.REDIS_URL });
await redis.connect();
try {
  await redis.lPush(QUEUE, redisMessage(message));
  console.log(JSON.stringify(await resultOf(redis, importId)));
} finally {
  redis.destroy();
}
