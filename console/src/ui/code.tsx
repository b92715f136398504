// Python, read only, with its lines numbered and its words coloured. What is shown is text in every case.
import { useEffect, useRef } from "preact/hooks";

const WORDS = /\b(?:False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|match|case|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b/;
const TOKEN = new RegExp(`(?<string>[rbfuRBFU]{0,2}(?:"""[\\s\\S]*?(?:"""|$)|'''[\\s\\S]*?(?:'''|$)|"(?:\\\\.|[^"\\\\\\n])*"|'(?:\\\\.|[^'\\\\\\n])*'))|(?<comment>#[^\\n]*)|(?<word>${WORDS.source})|(?<decorator>^[ \\t]*@[\\w.]+)|(?<number>\\b\\d[\\d_.]*\\b)`, "gm");
// Characters that are coloured: a file beyond is shown as it is.
const LONG = 200_000;

/** The text of a module; `at` is the line that is shown first. */
export function Code({ of, at }: { of: string; at?: number }) {
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    if (box.current && at) box.current.scrollTop = Math.max(0, (at - 3) * 20);
  }, [of, at]);
  const parts: (string | { kind: string; text: string })[] = [];
  let last = 0;
  if (of.length <= LONG)
    for (const found of of.matchAll(TOKEN)) {
      parts.push(of.slice(last, found.index));
      const kind = Object.entries(found.groups ?? {}).find(([, text]) => text !== undefined)?.[0] ?? "";
      parts.push({ kind, text: found[0] });
      last = found.index + found[0].length;
    }
  parts.push(of.slice(last));
  const count = of.split("\n").length;
  return (
    <pre class="code source" ref={box} tabIndex={0} aria-label="Code">
      <span class="numbers" aria-hidden="true">{Array.from({ length: count }, (_, n) => n + 1).join("\n")}</span>
      <code>{parts.map((one, n) => (typeof one === "string" ? one : <span key={n} class={`py-${one.kind}`}>{one.text}</span>))}</code>
    </pre>
  );
}
