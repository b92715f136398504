// Server-sent events: resumed by the browser, with a state that is shown when a stream is behind or cut.
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { org } from "./client";

export type LiveState = "live" | "connecting" | "cut" | "off";

/** How the stream of the page that is shown is; `off` where it has none. */
export const live = signal<LiveState>("off");
/** How many messages were passed over since the page was opened, as they came faster than they were taken. */
export const passedOver = signal(0);

/** Follow a stream of events for as long as a page is shown, or until an event of the kind `ends`; `null` follows nothing. */
export function useStream(url: string | null, kinds: string[], heard: (kind: string, data: unknown, id: string) => void, ends?: string): void {
  const latest = useRef(heard);
  latest.current = heard;
  useEffect(() => {
    if (url === null) return;
    passedOver.value = 0;
    let source: EventSource | null = null;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let pause = 1000;
    let place = "";
    let over = false;
    const open = () => {
      clearTimeout(timer);
      source?.close();
      live.value = "connecting";
      source = new EventSource(place ? `${url}${url.includes("?") ? "&" : "?"}after=${encodeURIComponent(place)}` : url);
      const mine = source;
      mine.onopen = () => {
        live.value = "live";
        pause = 1000;
      };
      mine.onerror = () => {
        // A browser goes on by itself where the connection broke off; a refusal ends its attempts, and so does a proxy's page.
        live.value = mine.readyState === EventSource.CLOSED ? "cut" : "connecting";
        if (mine.readyState === EventSource.CLOSED) {
          timer = setTimeout(open, pause);
          pause = Math.min(pause * 2, 30000);
        }
      };
      for (const kind of kinds)
        mine.addEventListener(kind, (event) => {
          // What the browser itself says of a lost connection has no data.
          if (!(event instanceof MessageEvent)) return;
          place = event.lastEventId || place;
          const data = JSON.parse(event.data);
          if (kind === "dropped") passedOver.value += data.count;
          latest.current(kind, data, event.lastEventId);
          if (kind === ends) {
            over = true;
            close();
          }
        });
    };
    const close = () => {
      clearTimeout(timer);
      source?.close();
      source = null;
      live.value = "off";
    };
    // A browser has six connections to a host for all its tabs together: one that nobody looks at keeps none, and goes on when it is shown.
    const look = () => {
      if (document.hidden) close();
      else if (!over && source === null) open();
    };
    look();
    document.addEventListener("visibilitychange", look);
    addEventListener("pagehide", close);
    addEventListener("pageshow", look);
    return () => {
      document.removeEventListener("visibilitychange", look);
      removeEventListener("pagehide", close);
      removeEventListener("pageshow", look);
      close();
    };
  }, [url]);
}

/** Follow what is archived and fits a query of the log search; `changed` is told the types and streams that came, at most every `every` milliseconds. `null` follows nothing. */
export function useChanges(q: string | null, changed: (types: Set<string>) => void, every = 700): void {
  const waiting = useRef<ReturnType<typeof setTimeout> | null>(null);
  const came = useRef(new Set<string>());
  const latest = useRef(changed);
  latest.current = changed;
  const soon = (kind: string, data: unknown) => {
    // What was passed over may have been of any type.
    const { type = EVERY, stream = EVERY } = kind === "row" ? (data as { type?: string; stream?: string }) : {};
    came.current.add(type).add(stream);
    waiting.current ??= setTimeout(() => {
      const types = came.current;
      came.current = new Set();
      waiting.current = null;
      latest.current(types);
    }, every);
  };
  const params = new URLSearchParams({ q: q ?? "", ...(org.value && { org: org.value }) });
  useStream(q === null ? null : `/api/v1/logs/tail?${params}`, ["row", "dropped", "error"], soon);
  useEffect(() => () => clearTimeout(waiting.current ?? undefined), []);
}

/** Stands for every type, where rows were passed over. */
export const EVERY = "*";

/** Say whether one of what came is one of these, or begins as one that ends in a dot. */
export const hasCome = (types: Set<string>, ...wanted: string[]): boolean =>
  [...types].some((type) => type === EVERY || wanted.some((one) => (one.endsWith(".") ? type.startsWith(one) : type === one)));

/** Do something every `ms` milliseconds while the page is looked at, and once when it is shown again after more than that. */
export function usePolled(does: () => unknown, ms: number): void {
  const latest = useRef(does);
  latest.current = does;
  useEffect(() => {
    let last = Date.now();
    const look = () => {
      if (document.hidden || Date.now() - last < ms) return;
      last = Date.now();
      latest.current();
    };
    const timer = setInterval(look, Math.min(ms, 5000));
    document.addEventListener("visibilitychange", look);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [ms]);
}
