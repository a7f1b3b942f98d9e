// What a producer without a Celery client needs of Celery: messages of protocol 2, and results.
// https://docs.celeryq.dev/en/stable/internals/protocol.html

import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout } from "node:timers/promises";

export const QUEUE = "imports";

const FINAL = new Set(["SUCCESS", "FAILURE", "REVOKED"]);
const POLL_MS = 500;

/** The headers and the body of a task's message. The task id is the import id. */
export function taskMessage(task, taskId, kwargs) {
  return {
    headers: {
      lang: "js",
      task,
      id: taskId,
      root_id: taskId,
      parent_id: null,
      group: null,
      retries: 0,
      eta: null,
      expires: null,
      timelimit: [null, null],
      argsrepr: "[]",
      kwargsrepr: "{}",
      origin: `${process.pid}@${hostname()}`,
    },
    body: JSON.stringify([[], kwargs, { callbacks: null, errbacks: null, chain: null, chord: null }]),
  };
}

/** The same as an item of the list that is a queue on a Redis broker. */
export function redisMessage({ headers, body }) {
  return JSON.stringify({
    headers,
    body: Buffer.from(body).toString("base64"),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    properties: {
      correlation_id: headers.id,
      reply_to: "",
      delivery_mode: 2,
      delivery_info: { exchange: "", routing_key: QUEUE },
      delivery_tag: randomUUID(),
      priority: 0,
      body_encoding: "base64",
    },
  });
}

/** Waits for the end of an import; returns its result, or throws if it did not succeed. */
export async function resultOf(redis, taskId) {
  for (;;) {
    const text = await redis.get(`celery-task-meta-${taskId}`);
    const meta = text ? JSON.parse(text) : { status: "PENDING" };
    if (meta.status === "SUCCESS") return meta.result;
    if (FINAL.has(meta.status)) {
      const { exc_type: name, exc_message: message } = meta.result;
      throw new Error(`${name}: ${message}`);
    }
    await setTimeout(POLL_MS);
  }
}
