"""Adds a request to the stream of a store, for producers without Celery.

python stream.py IMPORT_ID APP_ID; the store is REDIS_URL
"""

import json
import os
import sys

from redis import Redis

import_id, app_id = sys.argv[1:]
request = {
    "importId": import_id,  # the same id is the same import, so a request may be sent again
    "appId": app_id,
    "backendEnvironmentName": "prod",
    "userPoolId": "eu-central-1_AbCdEf123",
    "webClientId": "3n4b5urk1ft4fl3mg5e62d9ado",
    "nativeClientId": "6k1b2urk1ft4fl3mg5e62d9xyz",
}
url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
with Redis.from_url(url, decode_responses=True) as redis:
    print(redis.xadd("imports:requests", {"request": json.dumps(request)}))
