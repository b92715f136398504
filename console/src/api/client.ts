// Calls of the API by the names of its operations, with the types of this tree's own document.
import { signal } from "@preact/signals";

import { OPERATIONS } from "./operations.gen";
import type { components, operations } from "./schema.gen";

export type Schemas = components["schemas"];
export type Operation = keyof typeof OPERATIONS & keyof operations;
export type Role = "viewer" | "operator" | "developer" | "admin";
export type Me = Schemas["Me"];

type Parameters<O extends Operation> = operations[O]["parameters"];
type Json<T> = T extends { content: { "application/json": infer B } } ? B : never;
export type Answer<O extends Operation> = {
  [S in keyof operations[O]["responses"]]: S extends 200 | 201 | 202 ? Json<operations[O]["responses"][S]> : never;
}[keyof operations[O]["responses"]];
type Body<O extends Operation> = operations[O] extends { requestBody?: { content: infer C } } ? C[keyof C] : undefined;
export interface Given<O extends Operation> {
  path?: Parameters<O>["path"];
  query?: Parameters<O>["query"];
  body?: Body<O>;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export interface Fault {
  path: string;
  message: string;
}

/** What the gateway said against a request: a problem document (RFC 9457), or that there was no answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly faults: Fault[] = [],
    readonly retryAfter: number | null = null,
  ) {
    super(detail || title);
  }
}

/** Who calls; null until it is known. */
export const me = signal<Me | null>(null);
/** The organization that is looked at. */
export const org = signal(localStorage.getItem("org") ?? "");
/** Whether the session has ended while the page was open. */
export const signedOut = signal(false);
/** When the gateway was last heard, and whether it is out of reach. */
export const unreachable = signal<string | null>(null);

const RANKS: Role[] = ["viewer", "operator", "developer", "admin"];

/** Say whether a role may do what another may. */
export const isAtLeast = (least: Role, held: string | undefined): boolean => held !== undefined && RANKS.indexOf(held as Role) >= RANKS.indexOf(least);

/** Say whether the caller's role allows an operation in the organization that is looked at. */
export function may(operation: Operation): boolean {
  const [, , role, platform] = OPERATIONS[operation];
  if (role === null) return true;
  const roles = me.value?.roles ?? {};
  const held = [roles.global, platform ? undefined : roles[org.value]];
  return held.some((one) => isAtLeast(role, one));
}

/** Call an operation; the decoded answer, or a `Problem`. */
export async function call<O extends Operation>(operation: O, given: Given<O> = {}): Promise<Answer<O>> {
  return (await called(operation, given)).data;
}

/** Call an operation; its answer with the version that `If-Match` takes. */
export async function called<O extends Operation>(operation: O, given: Given<O> = {}): Promise<{ data: Answer<O>; etag: string | null; response: Response }> {
  const [method] = OPERATIONS[operation];
  const headers: Record<string, string> = { Accept: "application/json", ...given.headers };
  let body: BodyInit | undefined;
  if (given.body !== undefined) {
    const isRaw = (given.body as unknown) instanceof Blob;
    headers["Content-Type"] ??= isRaw ? "application/octet-stream" : "application/json";
    body = isRaw ? (given.body as unknown as Blob) : JSON.stringify(given.body);
  }
  if (method !== "GET" && me.value?.csrf) headers["X-Millrace-CSRF"] = me.value.csrf;
  let response: Response;
  try {
    response = await fetch(address(operation, given), { method, headers, body, credentials: "same-origin", signal: given.signal });
  } catch (error) {
    if (error instanceof DOMException) throw error;
    unreachable.value = "The gateway does not answer.";
    throw new Problem(0, "No answer", "The gateway does not answer.");
  }
  unreachable.value = null;
  if (!response.ok) throw await problem(response);
  const is = response.headers.get("Content-Type") ?? "";
  const data = response.status === 204 ? undefined : is.includes("json") ? await response.json() : await response.text();
  return { data: data as Answer<O>, etag: response.headers.get("ETag"), response };
}

/** The address of an operation, for streams and downloads as well. */
export function address<O extends Operation>(operation: O, given: Given<O> = {}): string {
  const [, path, , , takesOrg] = OPERATIONS[operation];
  const parts = (given.path ?? {}) as Record<string, string>;
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => encodePart(parts[name] ?? ""));
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries((given.query ?? {}) as Record<string, unknown>))
    if (value !== undefined && value !== null && value !== "") query.append(name, String(value));
  if (takesOrg && org.value && !query.has("org")) query.set("org", org.value);
  const text = query.toString();
  return text ? `${filled}?${text}` : filled;
}

// A path within a path keeps its slashes.
const encodePart = (part: string): string => part.split("/").map(encodeURIComponent).join("/");

async function problem(response: Response): Promise<Problem> {
  if (response.status === 401) signedOut.value = true;
  const again = response.headers.get("Retry-After");
  let told: { title?: string; detail?: string; errors?: Fault[] } = {};
  try {
    told = await response.json();
  } catch {
    told = { title: response.statusText, detail: `The gateway answered ${response.status}, and no reason.` };
  }
  return new Problem(response.status, told.title ?? "", told.detail ?? "", told.errors ?? [], again === null ? null : Number(again));
}
