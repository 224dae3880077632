"""The style of the page."""

STYLE = """
.initjax {
  --paper: #ffffff; --ink: #1c2127; --faint: #5d6773; --rule: #d8dde3;
  --raised: #f5f7f9; --error: #c62828; --warning: #a05a00; --note: #2b6cb0;
  --healthy: #2e7d32;
  box-sizing: border-box; max-width: 76rem; margin: 0 auto;
  padding: 1rem clamp(0.75rem, 3vw, 2rem) 2rem;
  color: var(--ink); background: var(--paper);
  font: 0.9375rem/1.45 system-ui, sans-serif;
}
:root:has(> body > .initjax) { background: #ffffff }
@media (prefers-color-scheme: dark) {
  .initjax {
    --paper: #14181d; --ink: #dfe4ea; --faint: #98a3b0; --rule: #333b45;
    --raised: #1d232a; --error: #ff7b72; --warning: #e3a33b; --note: #79b8ff;
    --healthy: #6fcf76;
  }
  :root:has(> body > .initjax) { background: #14181d }
}
.initjax *, .initjax *::before { box-sizing: border-box }
.initjax h1 { font-size: 1.5rem; margin: 0.5rem 0 1rem }
.initjax .healthy { color: var(--healthy); font-weight: 600 }
.initjax .unjudged { color: var(--warning); font-weight: 600 }
.initjax .hint { color: var(--faint) }

.initjax section {
  --accent: var(--note);
  margin: 0 0 0.75rem; padding: 0.7rem 1rem 0.8rem;
  border: 1px solid var(--rule); border-left: 4px solid var(--accent);
  border-radius: 4px; background: var(--raised);
}
.initjax .error { --accent: var(--error) }
.initjax .warning { --accent: var(--warning) }
.initjax h2 { font-size: 1rem; margin: 0 }
.initjax h2 .number { color: var(--accent); margin-right: 0.25rem }
.initjax h2 .severity {
  margin: 0 0.4rem; padding: 0 0.45rem; border: 1px solid; border-radius: 1rem;
  color: var(--accent); font-size: 0.75rem; font-weight: 500;
}
.initjax h2 code { font-weight: 500; overflow-wrap: anywhere }
.initjax p { overflow-wrap: anywhere }
.initjax section p { margin: 0.3rem 0 0; white-space: pre-line }
.initjax code, .initjax pre {
  font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace;
  font-size: 0.875em; color: inherit; background: none;
}
.initjax pre {
  margin: 0.6rem 0 0; padding: 0.6rem 0.8rem; white-space: pre-wrap;
  border: 1px solid var(--rule); border-radius: 4px; background: var(--paper);
  user-select: all;
}

.initjax figure { margin: 1.25rem 0 }
.initjax svg { display: block; width: 100%; height: auto; fill: currentColor }
.initjax .narrow { display: none }
@media (max-width: 640px) {
  .initjax .wide { display: none }
  .initjax .narrow { display: block }
}

.initjax .scroll { overflow-x: auto }
.initjax table {
  width: 100%; margin: 0; table-layout: fixed;
  border-collapse: collapse; font-size: 0.875rem;
  font-variant-numeric: tabular-nums;
}
.initjax th, .initjax td {
  padding: 0.2rem 0.5rem; text-align: left; vertical-align: baseline;
  white-space: nowrap; border: 0; background: var(--paper);
}
.initjax tr { border-bottom: 1px solid var(--rule); background: none }
.initjax th { font-weight: 600; vertical-align: bottom }
.initjax th small { display: block; font-weight: 400; color: var(--faint) }
.initjax table .number { text-align: right }
.initjax :is(td, th, summary span):first-child {
  position: sticky; left: 0; background: var(--paper);
}
.initjax :is(td, th):first-child {
  white-space: normal; overflow-wrap: anywhere;
}
.initjax tr.error :is(td, summary span):first-child,
.initjax tr.warning :is(td, summary span):first-child {
  color: var(--accent);
}
.initjax tr.fold > td { position: static; padding: 0 }
.initjax summary {
  display: flex; padding: 0; color: var(--faint); cursor: pointer;
}
.initjax summary span { padding: 0.2rem 0.5rem; white-space: nowrap }
.initjax summary span:first-child::after { content: " ▸" }
.initjax dt { font-weight: 600 }
.initjax dd { margin: 0 0 0.5rem 1rem; color: var(--faint) }
.initjax details[open] summary span:first-child::after { content: " ▾" }
.initjax summary:hover { color: var(--ink) }
.initjax details table { border-top: 1px solid var(--rule) }
"""
"""Every rule stays within the class initjax, for notebooks."""
