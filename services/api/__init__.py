"""The HTTP API of the service: `create_app(settings, store)` gives its WSGI application.

`routing` is how a route is declared, `access` who gets in, `problems` how it says no; `submissions`,
`cohorts`, `challenges`, `receivers`, `hooks`, `administration` and `operations` hold the routes.
"""

from services.api.app import create_app

__all__ = ["create_app"]
