"use strict";
// The pages /sign-in and /invitation: what a person types goes to the API of this gateway, and nowhere else.
const at = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
let token = location.pathname === "/invitation" ? location.hash.slice(1) : "";
let csrf = "";

function say(words, wrong = false) {
  at("said").textContent = words;
  at("said").className = wrong ? "wrong" : "";
}

async function call(method, path, body) {
  const headers = csrf ? { "X-Millrace-CSRF": csrf } : {};
  const sent = { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" };
  const answer = await fetch("/api/v1" + path, sent);
  const told = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(told.detail || told.title);
  return told;
}

function show(...ids) {
  for (const id of ["sign-in", "passkey", "providers", "accept", "signed-in"]) at(id).hidden = !ids.includes(id);
}

function next() {
  const wanted = new URL(new URLSearchParams(location.search).get("next") || "/", location.origin);
  return wanted.origin === location.origin ? wanted.pathname + wanted.search : "/";
}

function signedIn(me, leave) {
  csrf = me.csrf;
  at("title").textContent = "Signed in";
  say("You are signed in as " + (me.display_name || me.name) + ".");
  at("add").hidden = !window.PublicKeyCredential;
  at("next").href = next();
  show("signed-in");
  if (leave && location.search.includes("next=")) location.assign(next());
}

// What a person starts: one thing at a time, and what goes wrong is said.
function starts(id, event, work) {
  at(id).addEventListener(event, async (happened) => {
    happened.preventDefault();
    const buttons = [...document.querySelectorAll("button")];
    buttons.forEach((one) => (one.disabled = true));
    say("");
    try {
      await work(happened.target);
    } catch (error) {
      say(error.name === "NotAllowedError" ? "No passkey was used." : error.message, true);
    } finally {
      buttons.forEach((one) => (one.disabled = false));
    }
  });
}

async function addPasskey() {
  const asked = await call("POST", "/me/passkeys/options");
  asked.challenge = bytes(asked.challenge);
  asked.user.id = bytes(asked.user.id);
  asked.excludeCredentials = (asked.excludeCredentials || []).map((one) => ({ ...one, id: bytes(one.id) }));
  const made = await navigator.credentials.create({ publicKey: asked });
  const response = { clientDataJSON: text(made.response.clientDataJSON), attestationObject: text(made.response.attestationObject) };
  const credential = { id: made.id, rawId: text(made.rawId), type: made.type, response };
  await call("POST", "/me/passkeys", { credential, name: navigator.platform || "" });
}

starts("sign-in", "submit", async (form) => {
  const given = Object.fromEntries(new FormData(form));
  signedIn(await call("POST", "/sessions", given), true);
});
starts("passkey", "click", async () => {
  const asked = await call("POST", "/sessions/passkey/options");
  asked.challenge = bytes(asked.challenge);
  const found = await navigator.credentials.get({ publicKey: asked });
  const of = found.response;
  const response = {
    clientDataJSON: text(of.clientDataJSON),
    authenticatorData: text(of.authenticatorData),
    signature: text(of.signature),
    userHandle: text(of.userHandle),
  };
  const credential = { id: found.id, rawId: text(found.rawId), type: found.type, response };
  signedIn(await call("POST", "/sessions/passkey", { credential }), true);
});
starts("accept", "submit", async (form) => {
  const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
  if (!given.password && !window.PublicKeyCredential) throw new Error("This browser has no passkeys: choose a password.");
  const me = await call("POST", "/invitations/accept", { token, ...given });
  token = "";
  history.replaceState(null, "", "/sign-in");
  signedIn(me, false);
  if (!given.password) {
    await addPasskey();
    say("Your passkey is there: you can sign in with it from now on.");
  }
});
starts("add", "click", async () => {
  await addPasskey();
  say("Your passkey is there: you can sign in with it from now on.");
});
starts("out", "click", async () => {
  const left = await call("POST", "/sessions/current/leave");
  csrf = "";
  // Who has signed in by a provider signs out there as well.
  if (left.url) return location.assign(left.url);
  at("title").textContent = "Sign in";
  await begin();
});

async function begin() {
  if (token) {
    const told = await call("POST", "/invitations/read", { token });
    at("title").textContent = told.is_new ? "You are invited" : "Sign in anew";
    if (told.is_new) say("To " + told.org + ", as " + told.role + ".");
    at("login").hidden = Boolean(told.name);
    at("login").querySelector("input").required = !told.name;
    at("called").hidden = !told.is_new;
    at("called").querySelector("input").value = told.is_new ? told.display_name : "";
    show("accept");
    return;
  }
  const me = await fetch("/api/v1/me");
  if (me.ok) {
    signedIn(await me.json(), true);
    return;
  }
  const offered = await fetch("/api/v1/sign-in-providers");
  const items = offered.ok ? (await offered.json()).items : [];
  at("providers").replaceChildren(
    ...items.map((one) => {
      const line = document.createElement("li");
      const link = document.createElement("a");
      link.href = one.url + "?next=" + encodeURIComponent(next());
      link.textContent = "Sign in with " + (one.display_name || one.name);
      line.append(link);
      return line;
    }),
  );
  show("sign-in", ...(window.PublicKeyCredential ? ["passkey"] : []), ...(items.length ? ["providers"] : []));
  at("sign-in").elements.name.focus();
}

begin().catch((error) => say(error.message, true));
