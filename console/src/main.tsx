// The console: asks who is there, then shows the page of the address.
import { Component, type ComponentChildren, type ComponentType, render } from "preact";
import { useEffect, useState } from "preact/hooks";

import { asProblem } from "./api/asked";
import { Problem, call, me, org } from "./api/client";
import { listen } from "./app/keys";
import { type PageProps, pageOf } from "./app/places";
import { followLinks, here } from "./app/router";
import { Shell, applyTheme, signInAddress } from "./app/shell";
import { Empty, Head, Loading, Refusal } from "./ui/parts";

/** Shows what went wrong in a page in place of it, so that nothing looks up to date that is not. */
class Guard extends Component<{ children: ComponentChildren }, { error: unknown }> {
  state = { error: null };
  static getDerivedStateFromError = (error: unknown) => ({ error });
  render() {
    return this.state.error ? <Refusal problem={asProblem(this.state.error)} again={() => location.reload()} /> : this.props.children;
  }
}

function App() {
  const path = here.value.pathname;
  const found = pageOf(path);
  const [page, setPage] = useState<{ pattern: string; of: ComponentType<PageProps> } | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    setProblem(null);
    if (found && page?.pattern !== found.pattern)
      found.load().then(
        (module) => setPage({ pattern: found.pattern, of: module.default }),
        (error) => setProblem(asProblem(error)),
      );
  }, [found?.pattern]);
  const Page = found && page?.pattern === found.pattern ? page.of : null;
  return (
    <Shell>
      {!found ? <><Head title="There is no such page" /><Empty>The address names none. The menu has those that there are.</Empty></>
        : problem ? <Refusal problem={problem} again={() => location.reload()} />
        : Page ? <Guard key={`${org.value} ${path}`}><Page {...found.parts} /></Guard> : <Loading />}
    </Shell>
  );
}

async function start(): Promise<void> {
  applyTheme();
  const at = document.getElementById("console");
  if (!at) return;
  try {
    me.value = await call("get_me");
  } catch (error) {
    if (error instanceof Problem && error.status === 401) return location.assign(signInAddress());
    render(<Refusal problem={asProblem(error)} again={() => location.reload()} />, at);
    return;
  }
  const roles = me.value.roles;
  const wanted = here.value.searchParams.get("org") ?? org.value;
  org.value = wanted && (roles[wanted] || roles.global) ? wanted : me.value.default_org;
  followLinks();
  listen();
  at.replaceChildren();
  render(<App />, at);
}

void start();
