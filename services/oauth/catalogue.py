"""The providers that are known: one value each, from the documents of the provider that it links to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.resources.provider import Provider


class KnownProvider(msgspec.Struct, frozen=True):
    """A provider's name and title, the address of its own documents, and its endpoints and habits."""

    name: str
    title: str
    documents: str
    provider: Provider


def _known(name: str, title: str, documents: str, provider: Provider) -> KnownProvider:
    return KnownProvider(name, title, documents, provider)


KNOWN: Mapping[str, KnownProvider] = {
    one.name: one
    for one in (
        _known(
            "airtable",
            "Airtable",
            "https://airtable.com/developers/web/api/oauth-reference",
            Provider(
                authorize_url="https://airtable.com/oauth2/v1/authorize",
                token_url="https://airtable.com/oauth2/v1/token",
                client_authentication="basic",
                base_url="https://api.airtable.com/v0",
            ),
        ),
        _known(
            "asana",
            "Asana",
            "https://developers.asana.com/docs/oauth",
            Provider(
                authorize_url="https://app.asana.com/-/oauth_authorize",
                token_url="https://app.asana.com/-/oauth_token",
                revoke_url="https://app.asana.com/-/oauth_revoke",
                client_authentication="post",
                base_url="https://app.asana.com/api/1.0",
            ),
        ),
        _known(
            "atlassian",
            "Atlassian (Jira, Confluence)",
            "https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/",
            Provider(
                authorize_url="https://auth.atlassian.com/authorize",
                token_url="https://auth.atlassian.com/oauth/token",
                client_authentication="post",
                authorize_parameters={"audience": "api.atlassian.com", "prompt": "consent"},
                token_format="json",
                base_url="https://api.atlassian.com",
            ),
        ),
        _known(
            "auth0",
            "Auth0",
            "https://auth0.com/docs/api/authentication",
            Provider(
                authorize_url="https://{domain}/authorize",
                token_url="https://{domain}/oauth/token",
                client_authentication="post",
                hosts=["*.auth0.com"],
            ),
        ),
        _known(
            "bitbucket",
            "Bitbucket Cloud",
            "https://support.atlassian.com/bitbucket-cloud/docs/use-oauth-on-bitbucket-cloud/",
            Provider(
                authorize_url="https://bitbucket.org/site/oauth2/authorize",
                token_url="https://bitbucket.org/site/oauth2/access_token",
                client_authentication="basic",
                base_url="https://api.bitbucket.org/2.0",
            ),
        ),
        _known(
            "box",
            "Box",
            "https://developer.box.com/guides/authentication/oauth2/",
            Provider(
                authorize_url="https://account.box.com/api/oauth2/authorize",
                token_url="https://api.box.com/oauth2/token",
                revoke_url="https://api.box.com/oauth2/revoke",
                client_authentication="post",
                base_url="https://api.box.com/2.0",
            ),
        ),
        _known(
            "discord",
            "Discord",
            "https://discord.com/developers/docs/topics/oauth2",
            Provider(
                authorize_url="https://discord.com/oauth2/authorize",
                token_url="https://discord.com/api/oauth2/token",
                revoke_url="https://discord.com/api/oauth2/token/revoke",
                client_authentication="basic",
                base_url="https://discord.com/api",
            ),
        ),
        _known(
            "docusign",
            "DocuSign",
            "https://developers.docusign.com/platform/auth/authcode/",
            Provider(
                authorize_url="https://account.docusign.com/oauth/auth",
                token_url="https://account.docusign.com/oauth/token",
                client_authentication="basic",
            ),
        ),
        _known(
            "dropbox",
            "Dropbox",
            "https://developers.dropbox.com/oauth-guide",
            Provider(
                authorize_url="https://www.dropbox.com/oauth2/authorize",
                token_url="https://api.dropboxapi.com/oauth2/token",
                client_authentication="basic",
                authorize_parameters={"token_access_type": "offline"},
                base_url="https://api.dropboxapi.com/2",
            ),
        ),
        _known(
            "github",
            "GitHub",
            "https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps",
            Provider(
                authorize_url="https://github.com/login/oauth/authorize",
                token_url="https://github.com/login/oauth/access_token",
                client_authentication="post",
                base_url="https://api.github.com",
            ),
        ),
        _known(
            "gitlab",
            "GitLab",
            "https://docs.gitlab.com/api/oauth2/",
            Provider(
                authorize_url="https://gitlab.com/oauth/authorize",
                token_url="https://gitlab.com/oauth/token",
                revoke_url="https://gitlab.com/oauth/revoke",
                client_authentication="post",
                base_url="https://gitlab.com/api/v4",
            ),
        ),
        _known(
            "google",
            "Google",
            "https://developers.google.com/identity/protocols/oauth2/web-server",
            Provider(
                authorize_url="https://accounts.google.com/o/oauth2/v2/auth",
                token_url="https://oauth2.googleapis.com/token",
                revoke_url="https://oauth2.googleapis.com/revoke",
                client_authentication="post",
                issuer="https://accounts.google.com",
                authorize_parameters={"access_type": "offline", "prompt": "consent"},
            ),
        ),
        _known(
            "hubspot",
            "HubSpot",
            "https://developers.hubspot.com/docs/api/working-with-oauth",
            Provider(
                authorize_url="https://app.hubspot.com/oauth/authorize",
                token_url="https://api.hubapi.com/oauth/v1/token",
                client_authentication="post",
                base_url="https://api.hubapi.com",
            ),
        ),
        _known(
            "linear",
            "Linear",
            "https://linear.app/developers/oauth-2-0-authentication",
            Provider(
                authorize_url="https://linear.app/oauth/authorize",
                token_url="https://api.linear.app/oauth/token",
                revoke_url="https://api.linear.app/oauth/revoke",
                client_authentication="post",
                scope_separator=",",
                base_url="https://api.linear.app",
            ),
        ),
        _known(
            "microsoft-entra",
            "Microsoft Entra ID",
            "https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow",
            Provider(
                authorize_url="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
                token_url="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
                client_authentication="post",
            ),
        ),
        _known(
            "microsoft-graph",
            "Microsoft Graph",
            "https://learn.microsoft.com/en-us/graph/auth-v2-service",
            Provider(
                authorize_url="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
                token_url="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
                client_authentication="post",
                scopes=["https://graph.microsoft.com/.default"],
                base_url="https://graph.microsoft.com/v1.0",
            ),
        ),
        _known(
            "notion",
            "Notion",
            "https://developers.notion.com/docs/authorization",
            Provider(
                authorize_url="https://api.notion.com/v1/oauth/authorize",
                token_url="https://api.notion.com/v1/oauth/token",
                client_authentication="basic",
                pkce=False,
                authorize_parameters={"owner": "user"},
                token_format="json",
                base_url="https://api.notion.com/v1",
            ),
        ),
        _known(
            "paypal",
            "PayPal",
            "https://developer.paypal.com/api/rest/authentication/",
            Provider(
                token_url="https://api-m.paypal.com/v1/oauth2/token",
                client_authentication="basic",
                base_url="https://api-m.paypal.com",
            ),
        ),
        _known(
            "quickbooks",
            "QuickBooks Online",
            "https://developer.intuit.com/app/developer/qbo/docs/develop/authentication-and-authorization/oauth-2.0",
            Provider(
                authorize_url="https://appcenter.intuit.com/connect/oauth2",
                token_url="https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer",
                revoke_url="https://developer.api.intuit.com/v2/oauth2/tokens/revoke",
                client_authentication="basic",
                base_url="https://quickbooks.api.intuit.com",
            ),
        ),
        _known(
            "salesforce",
            "Salesforce",
            "https://help.salesforce.com/s/articleView?id=sf.remoteaccess_oauth_web_server_flow.htm",
            Provider(
                authorize_url="https://login.salesforce.com/services/oauth2/authorize",
                token_url="https://login.salesforce.com/services/oauth2/token",
                revoke_url="https://login.salesforce.com/services/oauth2/revoke",
                client_authentication="post",
            ),
        ),
        _known(
            "slack",
            "Slack",
            "https://docs.slack.dev/authentication/installing-with-oauth",
            Provider(
                authorize_url="https://slack.com/oauth/v2/authorize",
                token_url="https://slack.com/api/oauth.v2.access",
                client_authentication="basic",
                scope_separator=",",
                pkce=False,
                base_url="https://slack.com/api",
            ),
        ),
        _known(
            "xero",
            "Xero",
            "https://developer.xero.com/documentation/guides/oauth2/auth-flow",
            Provider(
                authorize_url="https://login.xero.com/identity/connect/authorize",
                token_url="https://identity.xero.com/connect/token",
                revoke_url="https://identity.xero.com/connect/revocation",
                client_authentication="basic",
                base_url="https://api.xero.com",
            ),
        ),
        _known(
            "zendesk",
            "Zendesk",
            "https://developer.zendesk.com/documentation/ticketing/working-with-oauth/creating-and-using-oauth-tokens-with-the-api/",
            Provider(
                authorize_url="https://{subdomain}.zendesk.com/oauth/authorizations/new",
                token_url="https://{subdomain}.zendesk.com/oauth/tokens",
                client_authentication="post",
                base_url="https://{subdomain}.zendesk.com/api/v2",
            ),
        ),
        _known(
            "zoom",
            "Zoom",
            "https://developers.zoom.us/docs/integrations/oauth/",
            Provider(
                authorize_url="https://zoom.us/oauth/authorize",
                token_url="https://zoom.us/oauth/token",
                revoke_url="https://zoom.us/oauth/revoke",
                client_authentication="basic",
                base_url="https://api.zoom.us/v2",
            ),
        ),
    )
}
