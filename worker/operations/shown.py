"""Compares what `GetBackend` shows of an app environment with what was imported into it.

`AmplifyMetaConfig` is the text of the environment's `amplify-meta.json`. AWS does not document it.
The Amplify command line writes an imported resource there with the `serviceType` "imported" and its
ids under `output`. Source: `createMetaOutput` in
`packages/amplify-category-auth/src/provider-utils/awscloudformation/import/index.ts` of
aws-amplify/amplify-cli.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.operations.http import one_line

IMPORTED: Final = "imported"
VALUE_CHARACTERS: Final = 64


def mismatch(body: bytes, category: str, expected: Mapping[str, str]) -> str:
    """Return how an answer of GetBackend differs from an import; '' if it does not.

    `expected` are the outputs of the imported resource of this category. Outputs that are not
    shown are not compared. Only the values of `expected` outputs are ever repeated: others are
    secrets.
    """
    try:
        resources = json.loads(json.loads(body)["amplifyMetaConfig"]).get(category, {})
        imported = [each for each in resources.values() if each.get("serviceType") == IMPORTED]
        outputs = [each.get("output") or {} for each in imported]
        differences = ["; ".join(_differences(each, expected)) for each in outputs]
    except (ValueError, LookupError, AttributeError, TypeError):
        return f"GetBackend shows no {category} configuration that can be read"
    if not differences:
        return f"GetBackend shows no imported {category} resource"
    return "" if "" in differences else differences[0]


def _differences(output: Mapping[str, Any], expected: Mapping[str, str]) -> Iterator[str]:
    for name, value in expected.items():
        shown = output.get(name)
        if shown is not None and shown != value:
            yield f"GetBackend shows {name} {one_line(str(shown))[:VALUE_CHARACTERS]}, not {value}"
