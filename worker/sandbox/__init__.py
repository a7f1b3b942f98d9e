"""The published import API as a real HTTP server, with quotas and faults on demand.

Signatures are not verified: the SigV4 header must be well formed, and its access key id and region
say who calls and where. Nothing here may be imported by the production code paths.
"""
