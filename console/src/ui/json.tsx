// JSON as a tree that is opened where one looks; text of strangers stays text.
import { useState } from "preact/hooks";

import { plainly } from "./formats";
import { Copy } from "./parts";

// Items of one list or object, and characters of one text, that are shown before somebody asks for more.
const FEW = 100;
const LONG = 2000;
const KEY = 100;

/** A document. */
export function Json({ of, open = 2 }: { of: unknown; open?: number }) {
  return (
    <div class="json">
      <div class="json-tools">
        <Copy text={JSON.stringify(of, null, 2) ?? "null"} what="Copy JSON" />
      </div>
      <Node of={of} open={open} />
    </div>
  );
}

function Node({ name, of, open }: { name?: string; of: unknown; open: number }) {
  const [isOpen, setOpen] = useState(open > 0);
  const [shown, setShown] = useState(FEW);
  const label = name !== undefined && <span class="json-name" title={name.length > KEY ? name.slice(0, LONG) : undefined}>{plainly(name.length > KEY ? `${name.slice(0, KEY)}…` : name)}: </span>;
  if (of === null || typeof of !== "object") return <div class="json-leaf">{label}<Leaf of={of} /></div>;
  const entries = Array.isArray(of) ? of.map((one, n): [string, unknown] => [String(n), one]) : Object.entries(of);
  const [begin, end] = Array.isArray(of) ? ["[", "]"] : ["{", "}"];
  if (entries.length === 0) return <div class="json-leaf">{label}{begin}{end}</div>;
  return (
    <details open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{label}{begin} <span class="json-count">{entries.length} {Array.isArray(of) ? (entries.length === 1 ? "item" : "items") : entries.length === 1 ? "field" : "fields"}</span> {end}</summary>
      {isOpen && (
        <div class="json-in">
          {entries.slice(0, shown).map(([key, value]) => <Node key={key} name={key} of={value} open={open - 1} />)}
          {entries.length > shown && <button type="button" class="small" onClick={() => setShown(shown + 10 * FEW)}>{entries.length - shown} more</button>}
        </div>
      )}
    </details>
  );
}

function Leaf({ of }: { of: unknown }) {
  const [whole, setWhole] = useState(false);
  if (typeof of !== "string") return <span class={`json-${of === null ? "null" : typeof of}`}>{String(of)}</span>;
  const cut = !whole && of.length > LONG;
  return (
    <span class="json-string">
      {plainly(JSON.stringify(cut ? of.slice(0, LONG) : of))}
      {cut && <button type="button" class="small" onClick={() => setWhole(true)}>{of.length - LONG} more characters</button>}
    </span>
  );
}
