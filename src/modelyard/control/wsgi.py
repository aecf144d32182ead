"""The control plane as a WSGI application, for gunicorn or any other server."""

from django.core.wsgi import get_wsgi_application

from modelyard.control.setup import start

start()
application = get_wsgi_application()
