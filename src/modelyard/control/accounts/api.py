"""API keys, tokens and the audit trail over HTTP: translation only."""

from typing import Any

from django.contrib.auth import authenticate
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers, status
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView

from modelyard.contract.errors import InvalidInput, Unauthenticated
from modelyard.control.accounts import services
from modelyard.control.accounts.models import AuditEvent, Key, Token
from modelyard.control.typed_body import body_of


class KeySerializer(serializers.ModelSerializer):
    """What may be known of a key."""

    id = serializers.CharField(source="public_id")
    principal = serializers.CharField(source="principal.name")
    scopes = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = Key
        fields = [
            "id",
            "principal",
            "scopes",
            "rows_per_second",
            "burst_rows",
            "created_at",
            "created_by",
            "expires_at",
            "revoked_at",
        ]
        read_only_fields = fields


class NewKeySerializer(serializers.Serializer):
    """What is asked of a new key."""

    principal = serializers.CharField(max_length=63)
    scopes = serializers.ListField(child=serializers.CharField(max_length=100), min_length=1, max_length=100)
    rows_per_second = serializers.FloatField(required=False, allow_null=True, default=None)
    burst_rows = serializers.IntegerField(required=False, allow_null=True, default=None)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


class MadeKeySerializer(serializers.Serializer):
    """A new key, and the only time that its secret is shown."""

    key = KeySerializer()
    secret = serializers.CharField(help_text="shown this once; only its SHA-256 is kept")


class AuditEventSerializer(serializers.ModelSerializer):
    """One line of the audit trail."""

    class Meta:
        model = AuditEvent
        fields = ["id", "at", "principal", "verb", "object", "details"]


class CredentialsSerializer(serializers.Serializer):
    """A name and its password."""

    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False, write_only=True)


class MadeTokenSerializer(serializers.Serializer):
    """A token of this API."""

    token = serializers.CharField(help_text="send it as `Authorization: Bearer …`; shown this once")
    expires_at = serializers.DateTimeField()


class Keys(generics.ListAPIView):
    """The gateway's API keys."""

    needs = {"GET": "accounts.view_key", "POST": "accounts.add_key"}
    serializer_class = KeySerializer
    queryset = services.list_keys()

    @extend_schema(request=NewKeySerializer, responses={201: MadeKeySerializer})
    def post(self, request: Request) -> Response:
        """Make a key; its secret is in this answer and nowhere else."""
        wanted = body_of(NewKeySerializer, request)
        key, secret = services.create_key(
            wanted.pop("principal"), wanted.pop("scopes"), by=request.user.get_username(), **wanted
        )
        return Response(MadeKeySerializer({"key": key, "secret": secret}).data, status.HTTP_201_CREATED)


class OneKey(APIView):
    """One API key."""

    needs = {"DELETE": "accounts.change_key"}

    @extend_schema(responses=KeySerializer)
    def delete(self, request: Request, key_id: str) -> Response:
        """Revoke it: gateways refuse it as soon as they have the next plan."""
        return Response(KeySerializer(services.revoke_key(key_id, by=request.user.get_username())).data)


class Audit(generics.ListAPIView):
    """Who changed what, newest first."""

    needs = {"GET": "accounts.view_auditevent"}
    serializer_class = AuditEventSerializer
    queryset = AuditEvent.objects.all()


class Tokens(APIView):
    """Tokens of this API."""

    throttle_scope = "sign_in"

    def get_permissions(self) -> list[Any]:
        """Whoever has a password may ask for a token; whoever has a token may end it."""
        return [AllowAny()] if self.request.method == "POST" else [IsAuthenticated()]

    def get_authenticators(self) -> list[Any]:
        """A password needs no other proof, and an old cookie or token must not stand in its way."""
        return [] if self.request is not None and self.request.method == "POST" else super().get_authenticators()

    def get_throttles(self) -> list[Any]:
        """Attempts to sign in are counted for each address."""
        return [ScopedRateThrottle()] if self.request.method == "POST" else []

    @extend_schema(request=CredentialsSerializer, responses={201: MadeTokenSerializer}, auth=[])
    def post(self, request: Request) -> Response:
        """A token for a name and its password."""
        user = authenticate(request._request, **body_of(CredentialsSerializer, request))
        if user is None:
            raise Unauthenticated("the name or the password is wrong, or was wrong too often; wait a few minutes")
        token, secret = services.create_token(user)
        return Response(
            MadeTokenSerializer({"token": secret, "expires_at": token.expires_at}).data, status.HTTP_201_CREATED
        )

    @extend_schema(request=None, responses={204: None})
    def delete(self, request: Request) -> Response:
        """End the token that this request was made with."""
        if not isinstance(request.auth, Token):
            raise InvalidInput("this request was not made with a token")
        services.revoke_token(request.auth, by=request.user.get_username())
        return Response(status=status.HTTP_204_NO_CONTENT)
