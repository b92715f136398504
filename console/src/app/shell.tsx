// What stands around every page: where one can go, whose data it is, and how the connection is.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { call, may, me, org, signedOut, unreachable } from "../api/client";
import { live, passedOver } from "../api/live";
import { Dialog } from "../ui/parts";
import { shortcuts, useShortcuts } from "./keys";
import { type Place, PLACES, placeOf } from "./places";
import { go, here, to } from "./router";

const SAYS = { live: "Live", connecting: "Connecting…", cut: "Cut off; trying again", off: "" };

/** A page within its surroundings. */
export function Shell({ children }: { children: ComponentChildren }) {
  const [helps, setHelps] = useState(false);
  const [menu, setMenu] = useState(false);
  const finder = useRef<HTMLInputElement>(null);
  const path = here.value.pathname;
  useEffect(() => setMenu(false), [path]);
  const groups = [...new Set(PLACES.map((one) => one.group))];
  useShortcuts([
    { keys: "/", says: "search", run: () => (document.querySelector<HTMLInputElement>("main [type=search], main [role=combobox]") ?? finder.current)?.focus() },
    { keys: "?", says: "shortcuts", run: () => setHelps(true) },
    ...PLACES.filter((one) => one.key).map((one) => ({ keys: `g ${one.key}`, says: `go to ${one.title.toLowerCase()}`, run: () => go(to(one.path)) })),
  ]);
  const current = placeOf(path);
  return (
    <div class="shell">
      <a class="skip" href="#content">To the content</a>
      <header class="bar">
        <button type="button" class="bare burger" aria-label="Menu" aria-expanded={menu} onClick={() => setMenu(!menu)}>☰</button>
        <a class="brand" href={to("/")}><img src="/console/icon.svg" alt="" width="24" height="24" /> Millrace</a>
        <Orgs />
        <form class="finder" role="search" aria-label="Everything" onSubmit={(event) => { event.preventDefault(); find(finder.current?.value ?? ""); }}>
          <input ref={finder} type="search" placeholder={matchMedia("(max-width: 52rem)").matches ? "Search" : "Id, or words in the logs ( / )"} aria-label="Search everything" />
        </form>
        <LiveState />
        <Account />
      </header>
      <nav aria-label="Pages" class={menu ? "open" : undefined}>
        {groups.map((group) => {
          const places = PLACES.filter((one) => one.group === group && allowed(one));
          return places.length > 0 && (
            <div key={group}>
              {group && <p>{group}</p>}
              <ul>
                {places.map((one) => (
                  <li key={one.path}><a href={to(one.path)} aria-current={current === one ? "page" : undefined}>{one.title}</a></li>
                ))}
              </ul>
            </div>
          );
        })}
      </nav>
      <main id="content" tabIndex={-1}>
        {signedOut.value && <div class="notice bad" role="alert">Your session has ended. <a href={signInAddress()}>Sign in again</a>; what you see is as it was.</div>}
        {unreachable.value && <div class="notice bad" role="alert">{unreachable.value} What you see is as it was.</div>}
        {children}
      </main>
      {helps && <Help close={() => setHelps(false)} />}
    </div>
  );
}

const allowed = (place: Place): boolean => place.needs === undefined || may(place.needs);

/** Where to sign in, and come back here. */
export const signInAddress = (): string => `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;

/** Look for something wherever it may be: an id leads to what has it, words to the logs. */
async function find(text: string): Promise<void> {
  const words = text.trim();
  if (!words) return;
  if (/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}$/.test(words)) {
    const [run, delivery] = await Promise.allSettled([call("get_run", { path: { id: words } }), call("get_delivery", { path: { id: words } })]);
    if (run.status === "fulfilled") return go(to(`/runs/${words}`));
    if (delivery.status === "fulfilled") return go(to(`/deliveries/${words}`));
  }
  go(to("/logs", { q: words }));
}

function Orgs() {
  const roles = me.value?.roles ?? {};
  const [all, setAll] = useState<string[]>([]);
  useEffect(() => {
    if (roles.global && may("list_orgs")) void call("list_orgs", { query: { limit: 1000 } }).then((page) => setAll(page.items.map((one) => one.name)), () => undefined);
  }, [me.value]);
  const names = [...new Set([org.value, ...Object.keys(roles).filter((one) => one !== "global"), ...(roles.global ? ["default"] : []), ...all])].filter(Boolean).sort();
  return (
    <select class="orgs" aria-label="Organization" value={org.value} onChange={(event) => choose(event.currentTarget.value)}>
      {names.map((name) => <option key={name} value={name}>{name}</option>)}
    </select>
  );
}

function choose(name: string): void {
  localStorage.setItem("org", name);
  org.value = name;
  const query = new URLSearchParams(here.value.search);
  query.set("org", name);
  go(`${here.value.pathname}?${query}`, true);
}

function LiveState() {
  const state = live.value;
  if (state === "off") return <span class="live" />;
  const missed = passedOver.value;
  return <span class={`live ${state}`} role="status" title={missed ? `${missed} messages came faster than they were shown, and were passed over.` : SAYS[state]}>{SAYS[state]}{missed ? ", behind" : ""}</span>;
}

function Account() {
  const who = me.value;
  if (!who) return null;
  const name = who.display_name || who.name || who.actor;
  return (
    <details class="account">
      <summary aria-label={`Signed in as ${name}`}><span class="face" aria-hidden="true">{name.slice(0, 1).toUpperCase()}</span></summary>
      <div class="menu">
        <p><strong>{name}</strong><br />{who.roles[org.value] ?? who.roles.global} in {org.value}</p>
        <Theme />
        <a href="/docs">The API</a>
        <a href="/sign-in">Passkeys</a>
        <button type="button" class="bare" onClick={async () => { await call("sign_out"); location.assign("/sign-in"); }}>Sign out</button>
      </div>
    </details>
  );
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem("theme") ?? "auto");
  return (
    <label>Colours{" "}
      <select value={theme} onChange={(event) => { const chosen = event.currentTarget.value; localStorage.setItem("theme", chosen); setTheme(chosen); applyTheme(); }}>
        <option value="auto">as the system</option>
        <option value="light">light</option>
        <option value="dark">dark</option>
      </select>
    </label>
  );
}

/** Use the colours that were chosen. */
export function applyTheme(): void {
  const chosen = localStorage.getItem("theme") ?? "auto";
  document.documentElement.style.colorScheme = chosen === "auto" ? "light dark" : chosen;
}

function Help({ close }: { close: () => void }) {
  return (
    <Dialog title="Keyboard" close={close}>
      <dl class="keys">
        {shortcuts.value.map((one) => <div key={one.keys}><dt>{one.keys.split(" ").map((key) => <kbd key={key}>{key}</kbd>)}</dt><dd>{one.says}</dd></div>)}
        <div><dt><kbd>Esc</kbd></dt><dd>leave a field, close a window</dd></div>
      </dl>
    </Dialog>
  );
}
