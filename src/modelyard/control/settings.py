"""Django's settings, all derived from the home's own settings; nothing is configured here twice."""

from modelyard.contract.home import Home
from modelyard.control.database import database_of
from modelyard.control.secret import secret_key
from modelyard.control.setup import active_settings, hosts_of

_settings = active_settings()
_tls = bool(_settings.tls_certificate)

SECRET_KEY = secret_key(Home(_settings.root))
DEBUG = False
ALLOWED_HOSTS = hosts_of(_settings)
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in _settings.allowed_hosts]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",  # Swagger UI from this machine, not from a content network
    "modelyard.control.accounts",
    "modelyard.control.registry",
    "modelyard.control.deployments",
    "modelyard.control.rollouts",
    "modelyard.control.training",
    "modelyard.control.jobs",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "modelyard.control.database_guard.DatabaseGuard",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "modelyard.control.urls"
WSGI_APPLICATION = "modelyard.control.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": database_of(_settings)}
DATABASE_ROUTERS = ["modelyard.control.transfer.MigratedDatabase"]
TASKS = {"default": {"BACKEND": "modelyard.control.jobs.backend.JobBackend"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTHENTICATION_BACKENDS = ["modelyard.control.accounts.authentication.PatientBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/admin/login/"

# Browsers send cookies to every port of a host: names of our own keep other local services' cookies apart.
SESSION_COOKIE_NAME = "modelyard_session"
CSRF_COOKIE_NAME = "modelyard_csrf"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Strict"
CSRF_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_SECURE = _tls  # on loopback there is only HTTP, and a secure cookie would never come back
CSRF_COOKIE_SECURE = _tls
SECURE_HSTS_SECONDS = 3600 if _tls else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

LANGUAGE_CODE = "zh-hans" if _settings.language == "zh" else "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # straight from the installed packages: there is nothing to collect
WHITENOISE_ALLOW_ALL_ORIGINS = False
WHITENOISE_MAX_AGE = 3600

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "modelyard.control.accounts.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["modelyard.control.accounts.permissions.Granted"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 100,
    "DEFAULT_THROTTLE_RATES": {"sign_in": "10/min"},
    "NUM_PROXIES": 0,  # a header must not choose whose attempts are counted
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "modelyard.control.problems.problem_of",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Modelyard management API",
    "DESCRIPTION": "What is true: models, versions, endpoints, keys, runs and jobs. Predictions are the gateway's.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["modelyard.control.accounts.permissions.Granted"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {"VersionStatusEnum": "modelyard.control.registry.models.Version.Status"},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "modelyard": {"handlers": ["stderr"], "level": _settings.log_level.upper(), "propagate": False},
        "django": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        # A refused Host is answered 400; a stack trace for each would let a stranger fill the log.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
