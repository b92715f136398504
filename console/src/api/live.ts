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
    live.value = "connecting";
    passedOver.value = 0;
    let source: EventSource;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let pause = 1000;
    let place = "";
    const open = () => {
      const resumed = place ? `${url}${url.includes("?") ? "&" : "?"}after=${encodeURIComponent(place)}` : url;
      source = new EventSource(resumed);
      source.onopen = () => {
        live.value = "live";
        pause = 1000;
      };
      source.onerror = () => {
        // A browser goes on by itself where the connection broke off; a refusal ends its attempts, and so does a proxy's page.
        live.value = source.readyState === EventSource.CLOSED ? "cut" : "connecting";
        if (source.readyState === EventSource.CLOSED) {
          timer = setTimeout(open, pause);
          pause = Math.min(pause * 2, 30000);
        }
      };
      for (const kind of kinds)
        source.addEventListener(kind, (event) => {
          // What the browser itself says of a lost connection has no data.
          if (!(event instanceof MessageEvent)) return;
          place = event.lastEventId || place;
          const data = JSON.parse(event.data);
          if (kind === "dropped") passedOver.value += data.count;
          latest.current(kind, data, event.lastEventId);
          if (kind === ends) {
            source.close();
            live.value = "off";
          }
        });
    };
    open();
    return () => {
      clearTimeout(timer);
      source.close();
      live.value = "off";
    };
  }, [url]);
}

/** Follow what is archived and fits a query of the log search; `changed` is called at most every `every` milliseconds. */
export function useChanges(q: string, changed: () => void, every = 700): void {
  const waiting = useRef<ReturnType<typeof setTimeout> | null>(null);
  const latest = useRef(changed);
  latest.current = changed;
  const soon = () => {
    waiting.current ??= setTimeout(() => {
      waiting.current = null;
      latest.current();
    }, every);
  };
  const params = new URLSearchParams({ q, ...(org.value && { org: org.value }) });
  useStream(`/api/v1/logs/tail?${params}`, ["row", "dropped", "error"], soon);
  useEffect(() => () => clearTimeout(waiting.current ?? undefined), []);
}
