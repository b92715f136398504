// Small parts of pages.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { asProblem } from "../api/asked";
import type { Problem } from "../api/client";
import { ago, inFull } from "./formats";

const TONES: Record<string, string> = {
  succeeded: "good", routed: "good", ok: "good", up: "good", ready: "good", active: "good", enabled: "good", answered: "good", replayed: "good", approved: "good", delivered: "good",
  failed: "bad", crashed: "bad", timed_out: "bad", error: "bad", down: "bad", unroutable: "bad", revoked: "bad", critical: "bad", expired: "bad", dead: "bad", refused: "bad", unready: "bad", broken: "bad", lost: "bad",
  running: "busy", started: "busy", processing: "busy", info: "busy", building: "busy",
  waiting: "held", queued: "held", delayed: "held", cancelling: "held", requested: "held", pending: "held", open: "held", warning: "held", retrying: "held", received: "held", held: "held", accepted: "held", deferred: "held",
};

/** How something is, by a word, a shape and a colour; never by the colour alone. */
export function Status({ of }: { of: string }) {
  return <span class={`status ${TONES[of] ?? "plain"}`}>{of.replace(/_/g, " ")}</span>;
}

/** A time, as how long ago, and in full on being pointed at. */
export function Time({ at }: { at: string | null | undefined }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 15_000);
    return () => clearInterval(timer);
  }, []);
  if (!at) return <span class="none">never</span>;
  return (
    <time dateTime={at} title={inFull(at)}>
      {ago(at)}
    </time>
  );
}

/** An id, short, and whole for the clipboard. */
export function Id({ of, href }: { of: string; href?: string }) {
  const short = of.length > 14 ? `…${of.slice(-8)}` : of;
  return href ? (
    <a class="id" href={href} title={of}>
      {short}
    </a>
  ) : (
    <code class="id" title={of}>
      {short}
    </code>
  );
}

/** What the gateway said against something, in its own words. */
export function Refusal({ problem, again }: { problem: Problem | null; again?: () => void }) {
  if (!problem) return null;
  const faults = problem.faults.filter((one) => one.message !== problem.detail);
  return (
    <div class="refusal" role="alert">
      <strong>{problem.title}</strong>
      <p>{problem.detail}</p>
      {faults.length > 0 && (
        <ul>
          {faults.map((one) => (
            <li key={one.path}>
              {one.path && <code>{one.path}</code>} {one.message}
            </li>
          ))}
        </ul>
      )}
      {again && (
        <button type="button" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

/** A button for something that takes a while and may be refused. It can be pressed once at a time, and says what was said against it. */
export function Act({ does, children, kind, confirm, disabled, small }: { does: () => Promise<unknown>; children: ComponentChildren; kind?: "main" | "bad"; confirm?: string; disabled?: boolean; small?: boolean }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [asks, setAsks] = useState(false);
  const press = async () => {
    setAsks(false);
    setBusy(true);
    setProblem(null);
    try {
      await does();
    } catch (error) {
      setProblem(asProblem(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button type="button" class={small ? "small" : kind} disabled={busy || disabled} aria-busy={busy} onClick={() => (confirm ? setAsks(true) : void press())}>
        {children}
      </button>
      {asks && confirm && (
        <Dialog title="Are you sure?" close={() => setAsks(false)}>
          <p>{confirm}</p>
          <div class="actions">
            <button type="button" class={kind ?? "main"} onClick={() => void press()}>
              {children}
            </button>
            <button type="button" onClick={() => setAsks(false)}>
              Leave it
            </button>
          </div>
        </Dialog>
      )}
      {problem && (
        <Dialog title={problem.status ? "That was refused" : problem.title} close={() => setProblem(null)}>
          <Refusal problem={problem} />
        </Dialog>
      )}
    </>
  );
}

/** A window before the page; Escape closes it. */
export function Dialog({ title, close, children, wide }: { title: string; close: () => void; children: ComponentChildren; wide?: boolean }) {
  const at = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = at.current;
    const before = document.activeElement;
    dialog?.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={at}
      class={wide ? "wide" : undefined}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onClick={(event) => event.target === at.current && close()}
    >
      <header>
        <h2>{title}</h2>
        <button type="button" class="bare" aria-label="Close" onClick={close}>
          ✕
        </button>
      </header>
      <div class="body">{children}</div>
    </dialog>
  );
}

/** Copy a text, and say so. */
export function Copy({ text, what = "Copy" }: { text: string; what?: string }) {
  const [done, setDone] = useState(false);
  return (
    <button
      type="button"
      class="small"
      onClick={async () => {
        await navigator.clipboard.writeText(text);
        setDone(true);
        setTimeout(() => setDone(false), 1500);
      }}
    >
      <span aria-live="polite">{done ? "Copied" : what}</span>
    </button>
  );
}

// Characters of a text that are shown before somebody asks for the rest: a browser lays out a megabyte in one line for seconds.
const LONG = 20_000;

/** A text as it is, only its beginning where it is very long. */
export function Text({ of, kind }: { of: string; kind?: string }) {
  const [whole, setWhole] = useState(false);
  const cut = !whole && of.length > LONG;
  return (
    <>
      <pre class={kind}>{cut ? of.slice(0, LONG) : of}</pre>
      {cut && <p><button type="button" class="small" onClick={() => setWhole(true)}>{(of.length - LONG).toLocaleString("en")} more characters</button> <Copy text={of} what="Copy all" /></p>}
    </>
  );
}

/** A value that somebody is to take along, with a button for it. */
export function Taken({ text }: { text: string }) {
  return (
    <>
      <pre>{text}</pre>
      <div class="actions"><Copy text={text} /></div>
    </>
  );
}

/** The head of a page: what it is of, and what can be done. */
export function Head({ title, children, of }: { title: ComponentChildren; children?: ComponentChildren; of?: ComponentChildren }) {
  useEffect(() => {
    if (typeof title === "string") document.title = `${title} - Millrace`;
  }, [title]);
  return (
    <header class="head">
      <div>
        {of && <p class="of">{of}</p>}
        <h1>{title}</h1>
      </div>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

/** A part of a page with a heading. */
export function Section({ title, children, aside }: { title: string; children: ComponentChildren; aside?: ComponentChildren }) {
  return (
    <section class="card">
      <header>
        <h2>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}

/** Names and what they are. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of
        .filter(([, what]) => what !== null && what !== undefined && what !== "")
        .map(([name, what]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{what}</dd>
          </div>
        ))}
    </dl>
  );
}

/** What stands where there is nothing yet. */
export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

/** What stands while something is on its way. */
export function Loading() {
  return (
    <p class="loading" role="status">
      Loading…
    </p>
  );
}
