// Python, read only, with its lines numbered and its words coloured. What is shown is text in every case.
import { useEffect, useRef } from "preact/hooks";

import { plainly } from "./formats";

const WORDS = /\b(?:False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|match|case|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b/;
const TOKEN = new RegExp(`(?<string>[rbfuRBFU]{0,2}(?:"""[\\s\\S]*?(?:"""|$)|'''[\\s\\S]*?(?:'''|$)|"(?:\\\\.|[^"\\\\\\n])*"|'(?:\\\\.|[^'\\\\\\n])*'))|(?<comment>#[^\\n]*)|(?<word>${WORDS.source})|(?<decorator>^[ \\t]*@[\\w.]+)|(?<number>\\b\\d[\\d_.]*\\b)`, "gm");
// Characters that are coloured: a file beyond is shown as it is.
const LONG = 200_000;

export interface Note {
  line: number;
  message: string;
  severity?: string;
}
type Part = { kind: string; text: string };

/** The text of a module; `at` is the line that is shown first, `around`: only so many lines before and after it. Notes stand below their lines. */
export function Code({ of, at, around, notes = [] }: { of: string; at?: number; around?: number; notes?: Note[] }) {
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    const line = box.current?.querySelector<HTMLElement>(`[data-n="${at}"]`);
    if (box.current && line && around === undefined) box.current.scrollTop = Math.max(0, line.offsetTop - 40);
  }, [of, at]);
  const lines = linesOf(plainly(of));
  const first = around !== undefined && at ? Math.max(0, at - 1 - around) : 0;
  const last = around !== undefined && at ? Math.min(lines.length, at + around) : lines.length;
  return (
    <pre class="code source" ref={box} tabIndex={0} aria-label="Code">
      {lines.slice(first, last).map((parts, n) => {
        const number = first + n + 1;
        const mine = notes.filter((one) => one.line === number || (number === lines.length && one.line > number));
        return [
          <span key={number} data-n={number} class={`l${around !== undefined && number === at ? " at" : ""}${mine.length ? " noted" : ""}`}>{parts.map((one, m) => (one.kind ? <span key={m} class={`py-${one.kind}`}>{one.text}</span> : one.text))}{"\n"}</span>,
          ...mine.map((one, m) => <span key={`${number} ${m}`} class={`note ${one.severity ?? "error"}`}>{one.message}</span>),
        ];
      })}
    </pre>
  );
}

/** The lines of a text, each as its coloured parts. */
function linesOf(text: string): Part[][] {
  const lines: Part[][] = [[]];
  const add = (kind: string, words: string) =>
    words.split("\n").forEach((piece, n) => {
      if (n > 0) lines.push([]);
      if (piece) lines.at(-1)?.push({ kind, text: piece });
    });
  let last = 0;
  if (text.length <= LONG)
    for (const found of text.matchAll(TOKEN)) {
      add("", text.slice(last, found.index));
      add(Object.entries(found.groups ?? {}).find(([, words]) => words !== undefined)?.[0] ?? "", found[0]);
      last = found.index + found[0].length;
    }
  add("", text.slice(last));
  if (lines.length > 1 && lines.at(-1)?.length === 0) lines.pop();
  return lines;
}
