"""The simulated API: a real HTTP server with the published import API, its quotas, and faults.

It does not verify signatures. A SigV4 header must be well formed; its access key id and region say
which account calls, and in which region. The code that handles real imports must not use this
package.
"""
