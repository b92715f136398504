// An OpenID Connect server for tests, on a port that the system gives: prints its issuer, and ends with its standard input.
// Clients register themselves (RFC 7591). A `token_life` of theirs, in seconds, is how long their access tokens live.
import { createServer } from "node:http";
import { errors, Provider } from "oidc-provider";

// Of exchanged tokens.
const audiences = new Map();
const seen = { grants: {}, refusals: [], held: 0 };
const now = Date.now;
// Whether the next token request is held up, and what lets the one go on that is.
let holds = false;
let release = null;

function life(_ctx, _token, client) {
  return client.token_life ?? 3600;
}

// Groups of people by their login.
const groups = {};

function findAccount(_ctx, id) {
  const claims = { sub: id, preferred_username: id, email: `${id}@acme.example`, email_verified: true, groups: groups[id] ?? [] };
  return { accountId: id, claims: () => claims };
}

const configuration = {
  scopes: ["openid", "offline_access", "tickets", "groups"],
  claims: { openid: ["sub"], profile: ["preferred_username"], email: ["email", "email_verified"], groups: ["groups"] },
  findAccount,
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
  },
  enabledJWA: { clientAuthSigningAlgValues: ["HS256", "RS256", "ES256"] },
  clientAuthMethods: ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"],
  extraClientMetadata: { properties: ["token_life"] },
  pkce: { required: () => true },
  // Its usual rule rotates late. Whatever the rule, the second use of a token that was rotated ends the whole grant.
  rotateRefreshToken: true,
  ttl: { AccessToken: life, ClientCredentials: life },
};

const EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";

// The server's own way to add a grant: a token that counts is exchanged for one of the asking client, for the same account, of
// no wider scope and for the audience that is asked for (RFC 8693).
async function exchange(ctx) {
  const { client, params, provider } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest("subject_token_type is none that is taken");
  const subject =
    (await provider.AccessToken.find(params.subject_token)) ?? (await provider.ClientCredentials.find(params.subject_token));
  if (!subject?.isValid) throw new errors.InvalidGrant("subject token invalid");
  const scope = new Set((subject.scope ?? "").split(" "));
  const asked = (params.scope ?? "").split(" ").filter(Boolean);
  if (!asked.every((one) => scope.has(one))) throw new errors.InvalidScope("wider than the subject token's", params.scope);
  const token = new provider.AccessToken({
    client,
    accountId: subject.accountId ?? `client:${subject.clientId}`,
    grantId: subject.grantId,
    gty: EXCHANGE,
    scope: asked.join(" ") || undefined,
  });
  ctx.oidc.entity("AccessToken", token);
  const value = await token.save();
  audiences.set(value, params.audience);
  ctx.body = {
    access_token: value,
    issued_token_type: ACCESS_TOKEN,
    token_type: "Bearer",
    expires_in: token.expiration,
    scope: token.scope,
  };
}

// An API that takes this server's tokens.
async function api(provider, request, response) {
  const [, token = ""] = (request.headers.authorization ?? "").match(/^Bearer (\S+)$/) ?? [];
  const found = (await provider.AccessToken.find(token)) ?? (await provider.ClientCredentials.find(token));
  if (!found) {
    response.writeHead(401, { "WWW-Authenticate": 'Bearer error="invalid_token"' }).end();
    return;
  }
  answer(response, { client: found.clientId, account: found.accountId ?? null, scope: found.scope ?? "", ...(audiences.has(token) && { audience: audiences.get(token) }) });
}

function answer(response, document) {
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(document));
}

const server = createServer();
// To a browser this is another site than 127.0.0.1: what it gives along from there to here, and back, is as on the internet.
server.listen(0, "127.0.0.2", () => {
  const issuer = `http://127.0.0.2:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  provider.registerGrantType(EXCHANGE, exchange, ["subject_token", "subject_token_type", "audience", "scope"]);
  provider.on("server_error", (_ctx, error) => console.error(error));
  provider.on("grant.success", (ctx) => {
    const type = ctx.oidc.params.grant_type;
    seen.grants[type] = (seen.grants[type] ?? 0) + 1;
  });
  provider.on("grant.error", (ctx, error) => {
    seen.refusals.push([ctx.oidc?.params?.grant_type ?? null, error.error, error.error_detail ?? null]);
  });
  const callback = provider.callback();
  server.on("request", (request, response) => {
    if (request.url === "/api/tickets") {
      api(provider, request, response).catch((error) => response.writeHead(500).end(String(error)));
    } else if (request.url === "/seen") {
      answer(response, seen);
    } else if (request.url.startsWith("/clock/")) {
      // So many seconds ahead.
      const ahead = 1000 * Number(request.url.slice("/clock/".length));
      Date.now = () => now() + ahead;
      response.end();
    } else if (request.url.startsWith("/groups/")) {
      const [login, names] = request.url.slice("/groups/".length).split("/");
      groups[login] = names.split(",").filter(Boolean);
      response.end();
    } else if (request.url === "/hold") {
      holds = true;
      response.end();
    } else if (request.url === "/release") {
      release();
      response.end();
    } else if (request.url === "/token" && holds) {
      holds = false;
      seen.held += 1;
      release = () => callback(request, response);
    } else {
      callback(request, response);
    }
  });
  console.log(issuer);
});
process.stdin.resume().on("end", () => process.exit(0));
