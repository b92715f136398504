// The answer to a question of a workflow: what its form asks, a comment, yes or no.
import { useState } from "preact/hooks";

import { asProblem } from "../api/asked";
import { type Problem, type Role, type Schemas, call, isAtLeast, me, org } from "../api/client";
import { type Schema, resolved } from "../api/description";
import { Fields } from "./form";
import { Refusal } from "./parts";

const ROLES: Role[] = ["viewer", "operator", "developer", "admin"];

/** Say whether somebody who looks at the console is asked: by name, or by a role; operators where nobody with either is. */
export function isAsked(one: Schemas["ApprovalView"]): boolean {
  const asked = [...one.to, ...(one.escalated ? one.escalate_to : [])];
  if (me.value && asked.includes(me.value.actor)) return true;
  const least = ROLES.find((role) => asked.includes(role)) ?? (asked.some((name) => /^(user|key):/.test(name)) ? null : "operator");
  const roles = me.value?.roles ?? {};
  return least !== null && [roles[org.value], roles.global].some((held) => isAtLeast(least, held));
}

/** The form of an open question; `done` is called once it has an answer. */
export function Answer({ of, done }: { of: Schemas["ApprovalView"]; done: () => Promise<unknown> }) {
  const [data, setData] = useState<Record<string, unknown>>({});
  const [comment, setComment] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const form = of.form && resolved(of.form as Schema);
  const answer = async (decision: "approve" | "refuse") => {
    setProblem(null);
    try {
      await call("answer_approval", { path: { id: of.id }, body: { decision, comment, ...(form && decision === "approve" && { data }) } as never });
      await done();
    } catch (error) {
      setProblem(asProblem(error));
    }
  };
  if (!isAsked(of)) return <p class="card">This is asked of {[...of.to, ...(of.escalated ? of.escalate_to : [])].join(", ") || "operators"}.</p>;
  return (
    <form class="card form" onSubmit={(event) => { event.preventDefault(); void answer("approve"); }}>
      {form?.properties && <Fields schema={form} value={data} change={setData} faults={problem?.faults ?? []} path="data" />}
      <div class="field"><label for={`comment-${of.id}`}>comment</label><textarea id={`comment-${of.id}`} rows={2} value={comment} onInput={(event) => setComment(event.currentTarget.value)} /></div>
      {problem && <Refusal problem={problem} />}
      <div class="actions"><button class="main">Approve</button><button type="button" class="bad" onClick={() => void answer("refuse")}>Refuse</button></div>
    </form>
  );
}
