// The query box of the log search: fields and values are offered as one types, and what cannot be read is said with its place.
import { useEffect, useRef, useState } from "preact/hooks";

import { call } from "../api/client";
import { search } from "../app/router";

const FIELDS = ["level", "type", "service", "workflow", "run", "stream", "org", "key", "correlation_id", "causation_id", "id", "message", "attempt", "fields.", "data.", "why"];
const COUNTED = new Set(["level", "type", "service", "workflow", "stream", "key"]);
const LEVELS = ["debug", "info", "warning", "error", "critical"];

/** A box for a query; what is entered is in the address of the page. */
export function Query({ q, from, to, label, example = "level:>=warning -workflow:sync “rate limit”" }: { q: string; from: string; to?: string; label: string; example?: string }) {
  const box = useRef<HTMLInputElement>(null);
  const [typed, setTyped] = useState(q);
  const [offers, setOffers] = useState<string[]>([]);
  const [at, setAt] = useState(-1);
  useEffect(() => setTyped(q), [q]);
  const word = () => {
    const end = box.current?.selectionStart ?? typed.length;
    const begin = typed.slice(0, end).search(/\S*$/);
    return { begin, end, text: typed.slice(begin, end).replace(/^[-(]+/, "") };
  };
  const offer = async () => {
    setAt(-1);
    const { text } = word();
    const colon = text.indexOf(":");
    if (!text) return setOffers([]);
    if (colon < 0) return setOffers(FIELDS.filter((one) => one.startsWith(text)).map((one) => (one.endsWith(".") ? one : `${one}:`)));
    const [field, begun] = [text.slice(0, colon), text.slice(colon + 1).replace(/^"/, "")];
    if (field === "level") return setOffers([...LEVELS, ">=warning"].filter((one) => one.startsWith(begun)).map((one) => `level:${one}`));
    if (!COUNTED.has(field) && !field.startsWith("fields.")) return setOffers([]);
    try {
      const found = await call("count_logs_by_value", { query: { fields: field, from, to, values: 50 } });
      const values = (found.items[0]?.values ?? []).map((one) => one.value).filter((one) => one.startsWith(begun) && one !== begun);
      setOffers(values.slice(0, 12).map((one) => `${field}:${/^[\w.-]+$/.test(one) ? one : JSON.stringify(one)}`));
    } catch {
      setOffers([]);
    }
  };
  const take = (offered: string) => {
    const { begin, end, text } = word();
    const made = typed.slice(0, end - text.length < begin ? begin : end - text.length) + offered + typed.slice(end);
    setTyped(made);
    setOffers([]);
    box.current?.focus();
    if (!offered.endsWith(":") && !offered.endsWith(".")) search({ q: made.trim() });
  };
  return (
    <form class="query" role="search" aria-label="In the log" onSubmit={(event) => { event.preventDefault(); setOffers([]); search({ q: typed.trim() }); }}>
      <input
        ref={box}
        type="text"
        role="combobox"
        aria-label={label}
        aria-expanded={offers.length > 0}
        aria-controls="offers"
        aria-autocomplete="list"
        aria-activedescendant={at >= 0 ? `offer-${at}` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder={example}
        value={typed}
        onInput={(event) => { setTyped(event.currentTarget.value); queueMicrotask(() => void offer()); }}
        onKeyDown={(event) => {
          if (event.key === "ArrowDown" && offers.length) { event.preventDefault(); setAt((at + 1) % offers.length); }
          if (event.key === "ArrowUp" && offers.length) { event.preventDefault(); setAt((at - 1 + offers.length) % offers.length); }
          if (event.key === "Escape") setOffers([]);
          if ((event.key === "Enter" || event.key === "Tab") && at >= 0 && offers[at]) { event.preventDefault(); take(offers[at]); }
        }}
        onBlur={() => setTimeout(() => setOffers([]), 150)}
      />
      <button class="main">Search</button>
      <ul id="offers" role="listbox" aria-label="Suggestions" hidden={offers.length === 0}>
        {offers.map((one, n) => <li key={one} id={`offer-${n}`} role="option" aria-selected={n === at} onPointerDown={(event) => { event.preventDefault(); take(one); }}>{one}</li>)}
      </ul>
    </form>
  );
}
