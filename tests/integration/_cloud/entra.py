"""Microsoft Entra: tokens for a client and its secret."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from . import values


class Entra:
    """One tenant.

    Attributes:
        refuses: Whether every sign-in fails.
    """

    def __init__(self) -> None:
        self.refuses = False

    async def configuration(self, request: Request) -> Response:
        """Return the endpoints."""
        base = f"https://{request.headers['host']}/{values.TENANT}"
        return JSONResponse(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "issuer": f"{base}/v2.0",
            }
        )

    async def token(self, request: Request) -> Response:
        """Return a token for a scope."""
        form = await request.form()
        if self.refuses or form.get("client_secret") != values.CLIENT_SECRET:
            description = "AADSTS7000215: Invalid client secret provided."
            return JSONResponse({"error": "invalid_client", "error_description": description}, 401)
        is_data = "dynamicsessions.io" in str(form.get("scope"))
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": 3600,
                "access_token": values.DATA_TOKEN if is_data else values.ARM_TOKEN,
            }
        )
