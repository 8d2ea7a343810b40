"""Logins: device flow, token store, the one refresher. For the host only.

A container never sees a refresh token: it gets a projected access token, or a scoped one.
"""
