"""Signs and sends requests with what the SDK's client resolved once.

For each call, the SDK's client evaluates the endpoint's rules, composes a user agent, validates
parameters that are valid, emits some fifteen events and parses an answer that is read raw here.
That is more than half of a call's CPU. Here, the SDK's client resolves the first call of each
method and sends none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse, create_request_object, prepare_request_dict
from botocore.serialize import create_serializer


@dataclass(frozen=True, slots=True)
class _Resolved:
    """What all requests of a method have in common."""

    operation: Any
    signer: Any
    context: Mapping[str, Any]
    headers: Mapping[str, str]
    endpoint_url: str


class Client:
    """Makes the calls of an open SDK client over that client's transport."""

    def __init__(self, sdk_client: Any, transport: Any) -> None:
        self._sdk_client = sdk_client
        self._transport = transport
        self._resolved: dict[str, _Resolved] = {}
        model = sdk_client.meta.service_model
        self._serializer = create_serializer(model.resolved_protocol, include_validation=False)
        event = f"before-call.{model.service_id.hyphenize()}"
        sdk_client.meta.events.register_first(event, _resolve_only)

    async def send(self, method: str, params: Mapping[str, object]) -> None:
        """Send one request. The transport keeps its answer.

        Raises what the SDK raises if there are no credentials, no valid endpoint, or no answer.
        """
        if method not in self._resolved:
            self._resolved[method] = (await getattr(self._sdk_client, method)(**params))["resolved"]
        resolved = self._resolved[method]
        request = self._serializer.serialize_to_request(params, resolved.operation)
        request["headers"] = {**resolved.headers, **request["headers"]}
        prepare_request_dict(request, resolved.endpoint_url, dict(resolved.context))
        signed = create_request_object(request)
        await resolved.signer.sign(resolved.operation.name, signed)
        await self._transport.send(signed.prepare())


def _resolve_only(
    model: Any, params: Mapping[str, Any], request_signer: Any, context: Mapping[str, Any], **_: Any
) -> tuple[AWSResponse, dict[str, _Resolved]]:
    """Answer a call of the SDK's client with what it resolved, so that it sends nothing.

    `Host` is set because the signer would derive it from the URL twice for each request.
    """
    endpoint_url = params["url"].partition("?")[0].removesuffix(params["url_path"])
    headers = {**params["headers"], "Host": urlsplit(endpoint_url).netloc.rpartition("@")[2]}
    resolved = _Resolved(model, request_signer, context, headers, endpoint_url)
    return AWSResponse(params["url"], 200, {}, None), {"resolved": resolved}
