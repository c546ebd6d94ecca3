"""Images at URLs: settings, permitted addresses, one download, and many downloads with a cache.

Downloads are limited in time, size and number. Addresses inside the network are refused unless they are allowed.
Connections are direct: a proxy from the environment is ignored, because the address behind a proxy can't be checked.
No credentials and no cookies are sent.
"""
