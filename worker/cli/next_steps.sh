#!/usr/bin/env bash
# Prepares Amplify apps whose user pools were imported for their next build.
#
# On each branch that uses the app environment, it sets the variables that Amplify Hosting needs to
# build with an imported user pool, keeps the branch's other variables, and starts a build.
#
# Needs the AWS CLI, jq, and the permissions amplify:ListBranches, amplify:GetBranch,
# amplify:UpdateBranch and amplify:StartJob. Read it before you run it. If you run it again, it
# only starts the builds again.
set -uo pipefail
failures=0

prepare() {
  local app=$1 environment=$2 account=$3 region=$4 pool=$5 web=$6 native=$7 identity=$8
  local options=(--region "$region" --app-id "$app" --output json) branches branch variables
  [ "$account" = default ] || options+=(--profile "$account")
  branches=$(aws amplify list-branches "${options[@]}" |
    jq -r --arg suffix "/backendenvironments/$environment" \
      '.branches[] | select(.backendEnvironmentArn // "" | endswith($suffix)) | .branchName') || return
  if [ -z "$branches" ]; then
    echo "$app/$environment: no branch uses this environment"
    return
  fi
  while IFS= read -r branch; do
    variables=$(aws amplify get-branch "${options[@]}" --branch-name "$branch" |
      jq -c --arg pool "$pool" --arg web "$web" --arg native "$native" --arg identity "$identity" \
        '(.branch.environmentVariables // {})
          + {AMPLIFY_USERPOOL_ID: $pool, AMPLIFY_WEBCLIENT_ID: $web, AMPLIFY_NATIVECLIENT_ID: $native}
          + (if $identity == "" then {} else {AMPLIFY_IDENTITYPOOL_ID: $identity} end)') || return
    aws amplify update-branch "${options[@]}" --branch-name "$branch" \
      --environment-variables "$variables" >/dev/null || return
    aws amplify start-job "${options[@]}" --branch-name "$branch" --job-type RELEASE \
      >/dev/null || return
    echo "$app/$environment: branch $branch is set up, and its build has started"
  done <<<"$branches"
}

try() {
  prepare "$@" </dev/null || {
    echo "$1/$2: failed" >&2
    failures=$((failures + 1))
  }
}

# app environment account region userPoolId webClientId nativeClientId identityPoolId
# {imports}

[ "$failures" -eq 0 ] || {
  echo "$failures app environments failed" >&2
  exit 1
}
