// How a run failed: the error, and the author's own frames with the code around each.
import { useState } from "preact/hooks";

import { useAsked } from "../api/asked";
import { type Schemas, may } from "../api/client";
import { to } from "../app/router";
import { Code } from "./code";
import { Section, Text } from "./parts";
import { useText } from "./source";

const FRAME = /^\s*File "([^"\n]+)", line (\d+), in (.+)$/gm;
// Lines that are shown before and after the one of a frame.
const AROUND = 4;
const MOST = 20;

/** The error of a run that began at `at`. */
export function Failure({ of, at }: { of: Schemas["RunError"]; at: string | null | undefined }) {
  const frames = [...(of.traceback ?? "").matchAll(FRAME)].map(([, path = "", line = "", name = ""]) => ({ path, line: Number(line), name })).slice(-MOST);
  return (
    <Section title={of.type}>
      <p class="error-message">{of.message}</p>
      {frames.map((one, n) => <Frame key={n} {...one} at={at} opened={n === frames.length - 1} />)}
      {of.traceback && <details open={frames.length === 0}><summary>The traceback as text</summary><Text kind="traceback" of={of.traceback} /></details>}
    </Section>
  );
}

/** One frame; its code is that of the version of the file that was there as the run began. */
function Frame({ path, line, name, at, opened }: { path: string; line: number; name: string; at: string | null | undefined; opened: boolean }) {
  const [open, setOpen] = useState(opened);
  const history = useAsked("list_history", open && may("list_history") ? { query: { path, limit: 100 } as never } : null);
  const versions = history.data?.items ?? [];
  const then = versions.find((one) => !at || one.at <= at) ?? versions.at(-1);
  const isNow = then === undefined || then === versions[0];
  const found = useText(open && history.data ? path : null, isNow ? null : then.version);
  return (
    <details class="frame" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary><code>{path}</code>, line {line}, in <code>{name}</code></summary>
      {open && found.text !== null && <Code of={found.text} at={line} around={AROUND} />}
      {open && (found.problem || history.problem) && <p class="minor">The file is not there any more.</p>}
      {open && found.text !== null && !isNow && <p class="minor">It was changed since: <a href={to(`/files/${path}`, { line: String(line) })}>as it is now</a>.</p>}
    </details>
  );
}
