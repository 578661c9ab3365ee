# The lines of style and script are as long as they read best.
# ruff: noqa: E501
"""The status page: one file without anything from elsewhere; it asks /api every two seconds."""

import base64
import hashlib

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2a9d5c; --bad: #d1495b; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
p { margin: .2rem 0; } .quiet { opacity: .65; } .good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; }
"""

_SCRIPT = """
"use strict";
const get = async (noun) => {
  const answer = await fetch("/api/" + noun);
  if (!answer.ok) throw new Error("/api/" + noun + ": " + answer.status);
  return answer.json();
};
const at = (id) => document.getElementById(id);
const cell = (kind, text) => {
  const made = document.createElement(kind);
  made.textContent = text ?? "";
  return made;
};
const row = (kind, texts) => {
  const made = document.createElement("tr");
  made.append(...texts.map((text) => cell(kind, text)));
  return made;
};
const table = (id, heads, rows) =>
  at(id).replaceChildren(row("th", heads), ...(rows.length ? rows : [["none"]]).map((r) => row("td", r)));
const time = (at) => (typeof at === "number" ? new Date(at * 1000).toLocaleString() : at ?? "");
const pairs = (session) => (session.domain_pairs ?? []).map((pair) => pair.join(" \\u2194 ")).join(", ");
const sum = (dropped) => Object.entries(dropped).map(([reason, n]) => reason + " " + n).join(", ") || 0;
async function refresh() {
  try {
    const [status, workers, sessions, errors] =
      await Promise.all(["status", "workers", "sessions?limit=200", "errors"].map(get));
    const routes = await get("routes").catch(() => []);
    at("name").textContent = "fedgate " + status.name;
    const well = status.ready && !status.degraded.length;
    at("state").textContent = status.ready ? status.state : status.state + ", nobody accepts";
    at("state").className = well ? "good" : "bad";
    at("degraded").textContent = status.degraded.length ? "degraded: " + status.degraded.join(", ") : "";
    at("facts").textContent = status.domains.join(", ") + " \\u00b7 version " + status.version +
      " \\u00b7 up " + Math.round(status.uptime) + " s \\u00b7 Redis " + status.redis.url;
    const keys = ["accepted", "acknowledged", "bounced", "returned", "in_flight", "replayed"];
    table("ledger", ["direction", ...keys.map((key) => key.replace("_", " ")), "dropped"], Object.entries(status.ledger).map(
      ([way, entry]) => [way, ...keys.map((key) => entry[key]), sum(entry.dropped)]));
    table("workers", ["worker", "pid", "state", "sessions", "routes", "MiB", "restarts"], workers.map(
      (w) => [w.id, w.pid, w.state, w.sessions, w.routes, (w.rss_bytes / 1048576).toFixed(1), w.restarts]));
    table("sessions", ["domain pairs", "direction", "authenticated by", "worker", "since"],
      sessions.map(
        (s) => [pairs(s), s.direction + (s.bidirectional ? " ⇄" : ""), s.authenticated_by, s.worker, time(s.since)]));
    table("routes", ["local", "remote", "owner", "epoch"],
      routes.slice(0, 200).map((r) => [r.local, r.remote, r.owner, r.epoch]));
    table("errors", ["at", "from", "what"],
      errors.slice(-20).reverse().map((e) => [time(e.at), e.worker, e.text ?? JSON.stringify(e)]));
  } catch (error) {
    at("state").textContent = "no answer: " + error.message;
    at("state").className = "bad";
  }
  setTimeout(refresh, 2000);
}
refresh();
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src 'sha256-{_hash(_SCRIPT)}'; "
    f"style-src 'sha256-{_hash(_STYLE)}'; frame-ancestors 'none'; base-uri 'none'"
)

PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>fedgate</title><style>{_STYLE}</style>
<h1 id="name">fedgate</h1>
<p><strong id="state">asking</strong> <span id="degraded" class="bad"></span></p>
<p id="facts" class="quiet"></p><noscript>This page needs JavaScript; see /api/status.</noscript>
<h2>Ledger</h2><table id="ledger"></table>
<h2>Workers</h2><table id="workers"></table>
<h2>Sessions</h2><table id="sessions"></table>
<h2>Routes</h2><table id="routes"></table>
<h2>Recent errors</h2><table id="errors"></table>
<script>{_SCRIPT}</script></html>
"""
