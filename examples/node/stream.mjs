// Adds a request to the stream of a store, for producers without Celery.
// node stream.mjs IMPORT_ID APP_ID; the store is REDIS_URL

import { createClient } from "redis";

const [importId, appId] = process.argv.slice(2);
const request = {
  importId, // the same id is the same import, so a request may be sent again
  appId,
  backendEnvironmentName: "prod",
  userPoolId: "eu-central-1_AbCdEf123",
  webClientId: "3n4b5urk1ft4fl3mg5e62d9ado",
  nativeClientId: "6k1b2urk1ft4fl3mg5e62d9xyz",
};

const redis = createClient({ url: process.env.REDIS_URL });
await redis.connect();
try {
  const entryId = await redis.xAdd("imports:requests", "*", {
    request: JSON.stringify(request),
  });
  console.log(entryId);
} finally {
  redis.destroy();
}
