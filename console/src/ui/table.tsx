// Lists: pages of them as one scrolls, only the rows that are seen in the document, j and k, and what is new on top.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { asProblem } from "../api/asked";
import { type Answer, type Given, type Operation, type Problem, call, org } from "../api/client";
import { useShortcuts } from "../app/keys";
import { go } from "../app/router";
import { Empty, Loading, Refusal } from "./parts";

export interface Column<T> {
  name: string;
  /** Its width, as a track of a grid. */
  width: string;
  show: (row: T) => ComponentChildren;
  /** Whether it is left out where there is little room. */
  minor?: boolean;
  /** Whether it is a number, which stands under the others' last digits. */
  number?: boolean;
}

const classOf = (one: { minor?: boolean; number?: boolean }): string | undefined => [one.minor && "minor", one.number && "number"].filter(Boolean).join(" ") || undefined;

export interface Rows<T> {
  rows: T[];
  problem: Problem | null;
  loading: boolean;
  more: boolean;
  next: () => void;
  refresh: () => void;
}

type Listed<O extends Operation> = Answer<O> extends { items: (infer T)[] } ? T : never;

/** The pages of a list, the next one when it is asked for; `refresh` takes in what is new or changed in the first one. */
export function useRows<O extends Operation>(operation: O, given: Given<O>, keyOf: (row: Listed<O>) => string): Rows<Listed<O>>;
/** The same of what a list needs of each row, so that very many of them are not kept whole. */
export function useRows<O extends Operation, T>(operation: O, given: Given<O>, keyOf: (row: T) => string, keep: (row: Listed<O>) => T): Rows<T>;
export function useRows<O extends Operation, T>(operation: O, given: Given<O>, keyOf: (row: T) => string, keep?: (row: Listed<O>) => T): Rows<T> {
  type Page = { items: T[]; next_cursor?: string | null };
  const key = JSON.stringify([operation, given, org.value]);
  const nothing = { key, rows: [] as T[], cursor: null as string | null, problem: null as Problem | null, loading: true };
  const [state, setState] = useState(nothing);
  // The newest, for whoever still holds an earlier rendering's functions.
  const held = useRef(state);
  const put = (next: typeof nothing) => {
    held.current = next;
    setState(next);
  };
  const turn = useRef(0);
  const busy = useRef(false);
  const again = useRef(false);
  const page = async (cursor?: string | null): Promise<Page> => {
    // The first page is small, to be there soon; whoever goes on gets more at a time.
    const query = { limit: cursor ? 500 : 100, ...(given.query as object), ...(cursor && { cursor }) };
    const got = (await call(operation, { ...given, query: query as never })) as unknown as { items: Listed<O>[]; next_cursor?: string | null };
    return { items: keep ? got.items.map(keep) : (got.items as unknown as T[]), next_cursor: got.next_cursor };
  };
  const load = async (kind: "first" | "next" | "refresh") => {
    if (busy.current && kind !== "first") {
      again.current ||= kind === "refresh";
      return;
    }
    const mine = kind === "first" ? ++turn.current : turn.current;
    busy.current = true;
    try {
      const got = await page(kind === "next" ? held.current.cursor : null);
      if (mine !== turn.current) return;
      const was = held.current;
      const beyond = got.next_cursor ?? null;
      const at = { key, problem: null, loading: false };
      if (kind === "first" || was.key !== key) put({ ...at, rows: got.items, cursor: beyond });
      else if (kind === "next") put({ ...at, rows: merged(was.rows, got.items, keyOf, false), cursor: beyond });
      else put({ ...at, rows: merged(was.rows, got.items, keyOf, true), cursor: was.rows.length ? was.cursor : beyond });
    } catch (error) {
      if (mine === turn.current) put({ ...held.current, problem: asProblem(error), loading: false });
    } finally {
      if (mine === turn.current) {
        busy.current = false;
        if (again.current) {
          again.current = false;
          void load("refresh");
        }
      }
    }
  };
  useEffect(() => {
    put(nothing);
    void load("first");
    return () => {
      turn.current++;
    };
  }, [key]);
  const mine = state.key === key;
  return {
    rows: mine ? state.rows : [],
    problem: state.problem,
    loading: !mine || state.loading,
    more: mine && state.cursor !== null,
    next: () => void load("next"),
    refresh: () => void load("refresh"),
  };
}

function merged<T>(was: T[], got: T[], keyOf: (row: T) => string, front: boolean): T[] {
  const fresh = new Map(got.map((row) => [keyOf(row), row]));
  const kept = was.map((row) => {
    const key = keyOf(row);
    const newer = fresh.get(key);
    fresh.delete(key);
    return newer ?? row;
  });
  const others = [...fresh.values()];
  return front ? [...others, ...kept] : [...kept, ...others];
}

const ROW = 44;
const SPARE = 12;

/** A table of rows, each of which may lead to a page (`href`) or open something (`opens`). */
export function Table<T>({ of, columns, keyOf, href, opens, label, empty }: { of: Rows<T>; columns: Column<T>[]; keyOf: (row: T) => string; href?: (row: T) => string; opens?: (row: T) => void; label: string; empty: ComponentChildren }) {
  const open = opens ?? (href && ((row: T) => go(href(row))));
  const body = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState<[number, number]>([0, 60]);
  const [at, setAt] = useState(-1);
  const { rows } = of;
  const look = () => {
    if (!body.current) return;
    const top = -body.current.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / ROW) - SPARE);
    const last = Math.ceil((top + innerHeight) / ROW) + SPARE;
    setSeen((was) => (was[0] === first && was[1] === last ? was : [first, last]));
    if (last >= rows.length && of.more && !of.loading) of.next();
  };
  // Also after a page that brought nothing new: no scrolling would ask for the one after it.
  useLayoutEffect(look, [rows, of.more]);
  useEffect(() => {
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  });
  const move = (by: number) => {
    const next = Math.max(0, Math.min(rows.length - 1, at + by));
    setAt(next);
    if (!body.current) return;
    const top = body.current.getBoundingClientRect().top + scrollY + next * ROW;
    if (top < scrollY + 140) scrollTo({ top: top - 140 });
    else if (top + ROW > scrollY + innerHeight) scrollTo({ top: top + ROW * 2 - innerHeight });
  };
  useShortcuts([
    { keys: "j", says: "next row", run: () => move(1) },
    { keys: "k", says: "row before", run: () => move(-1) },
    { keys: "Enter", says: "open the row", run: () => rows[at] && open?.(rows[at]) },
  ]);
  if (of.problem && rows.length === 0) return <Refusal problem={of.problem} again={of.refresh} />;
  if (of.loading && rows.length === 0) return <div class="table"><Loading /></div>;
  if (rows.length === 0) return <div class="table"><Empty>{empty}</Empty></div>;
  const [first, last] = [Math.min(seen[0], rows.length), Math.min(seen[1], rows.length)];
  const tracks = { "--tracks": columns.map((one) => one.width).join(" "), "--few": columns.filter((one) => !one.minor).map((one) => one.width).join(" ") };
  return (
    <div class="table" role="table" aria-label={label} aria-rowcount={of.more ? -1 : rows.length + 1} style={tracks}>
      <div role="rowgroup">
        <div role="row" class="row heads" aria-rowindex={1}>
          {columns.map((one) => (
            <span key={one.name} role="columnheader" class={classOf(one)}>
              {one.name}
            </span>
          ))}
        </div>
      </div>
      <div role="rowgroup" ref={body} class="rows" style={{ height: `${rows.length * ROW}px` }}>
        {rows.slice(first, last).map((row, n) => {
          const index = first + n;
          return (
            <div key={keyOf(row)} role="row" aria-rowindex={index + 2} class={`row${index === at ? " at" : ""}${open ? " leads" : ""}`} style={{ top: `${index * ROW}px` }} onClick={(event) => open && !(event.target as Element).closest("a, button, input") && !getSelection()?.toString() && open(row)}>
              {columns.map((one, c) => (
                <span key={one.name} role="cell" class={classOf(one)}>
                  {c === 0 && href ? <a href={href(row)}>{one.show(row)}</a> : c === 0 && opens ? <button type="button" class="bare" onClick={() => opens(row)}>{one.show(row)}</button> : one.show(row)}
                </span>
              ))}
            </div>
          );
        })}
      </div>
      {of.problem && <Refusal problem={of.problem} again={of.refresh} />}
    </div>
  );
}
