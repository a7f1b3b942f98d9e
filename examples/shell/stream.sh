#!/bin/sh
# Adds a request to the stream of a store; needs redis-cli and jq.
# stream.sh IMPORT_ID APP_ID; the store is REDIS_URL
set -eu

request=$(jq --null-input --compact-output --arg importId "$1" --arg appId "$2" '{
  $importId, # the same id is the same import, so a request may be sent again
  $appId,
  backendEnvironmentName: "prod",
  userPoolId: "eu-central-1_AbCdEf123",
  webClientId: "3n4b5urk1ft4fl3mg5e62d9ado",
  nativeClientId: "6k1b2urk1ft4fl3mg5e62d9xyz"
}')
redis-cli -e -u "${REDIS_URL:-redis://127.0.0.1:6379/0}" XADD imports:requests '*' request "$request"
