// Addresses of pages: each is a link that can be sent to a colleague, with its search and its organization.
import { signal } from "@preact/signals";

export const BASE = "/console";
export const here = signal(new URL(location.href));

addEventListener("popstate", () => {
  here.value = new URL(location.href);
});

/** The address of a page: its path below the console, and what is searched there. */
export function to(path: string, query: Record<string, string | undefined> = {}): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) params.set(name, value);
  const text = params.toString();
  return `${path === "/" ? "/" : BASE + path}${text ? `?${text}` : ""}`;
}

/** The path of a page below the console; null where it is of something else. */
export function below(path: string): string | null {
  return path === "/" ? path : path.startsWith(`${BASE}/`) ? path.slice(BASE.length) : null;
}

/** Go to an address. */
export function go(address: string, replace = false): void {
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  here.value = new URL(location.href);
  if (!replace) scrollTo(0, 0);
}

/** Change what is searched on this page, without a step in the browser's history for each letter. */
export function search(query: Record<string, string | undefined>): void {
  const params = new URLSearchParams(here.value.search);
  for (const [name, value] of Object.entries(query)) value ? params.set(name, value) : params.delete(name);
  const text = params.toString();
  go(here.value.pathname + (text ? `?${text}` : ""), true);
}

/** Have links within the console change the page without loading it anew. */
export function followLinks(): void {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin || below(link.pathname) === null) return;
    event.preventDefault();
    if (link.href !== location.href) go(link.href);
  });
}

/** The parts of a path by a pattern such as `/runs/:id`; `:name*` takes the rest. Null where it does not fit. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const names: string[] = [];
  const source = pattern.replace(/:(\w+)(\*?)/g, (_, name: string, rest: string) => {
    names.push(name);
    return rest ? "(.+)" : "([^/]+)";
  });
  const found = new RegExp(`^${source}$`).exec(path);
  try {
    return found && Object.fromEntries(names.map((name, n) => [name, decodeURIComponent(found[n + 1] ?? "")]));
  } catch {
    // Its escapes are none: it names no page.
    return null;
  }
}
