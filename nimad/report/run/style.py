"""The style sheet of the run report."""

from typing import Final

STYLE: Final = """
:root {
  --paper: #fdfcfa; --ink: #1d2226; --soft: #5c656d; --line: #dfdcd5; --wash: #f3f0ea; --card: #ffffff;
  --nodes: #2b6a99; --edges: #c0761a; --turns: #4c8a57; --other: #7b6a9b; --verifying: #d9d3ea; --plan: #9a3412;
  --good: #1f6b3a; --good-wash: #e2f2e6; --noted: #7a4b00; --noted-wash: #fbecd0; --bad: #a1231b; --bad-wash: #fbe3e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16191c; --ink: #e7e5e0; --soft: #a2a9af; --line: #343a40; --wash: #22272b; --card: #1d2125;
    --nodes: #6aa9d8; --edges: #e2a44e; --turns: #7fbf8b; --other: #a895cc; --verifying: #3d3658; --plan: #f0996b;
    --good: #9fdcb2; --good-wash: #1b3a26; --noted: #f2cf8d; --noted-wash: #443208; --bad: #f7aaa2; --bad-wash: #4a1c18;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main, footer { max-width: 58rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding: 2.25rem 0 .5rem; }
h1, h2, h3, p, dl, dd, figure, ul { margin: 0; }
h1 {
  font-size: 1.35rem; line-height: 1.35; font-weight: 600; display: flex; flex-wrap: wrap; gap: .4rem .75rem;
  align-items: center; margin-top: .35rem; font-variant-numeric: tabular-nums;
}
.when { font-weight: 400; color: var(--soft); font-size: 1rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin-bottom: .75rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
section { padding-top: 2.25rem; margin-top: 2.25rem; border-top: 1px solid var(--line); }
.kind { color: var(--soft); font-size: .85rem; letter-spacing: .02em; }
.headline { font-size: 1.05rem; margin-top: .6rem; max-width: 44rem; overflow-wrap: anywhere; }
.badge { padding: .1rem .7rem; border-radius: 1rem; }
.badge.good { color: var(--good); background: var(--good-wash); }
.badge.noted { color: var(--noted); background: var(--noted-wash); }
.badge.bad { color: var(--bad); background: var(--bad-wash); }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin-top: 1.4rem;
}
.cards div {
  border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: .65rem .85rem .75rem;
}
.cards dt { color: var(--soft); font-size: .8rem; }
.cards b { display: block; font-size: 1.35rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: .8rem; }
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 2px solid var(--nodes); outline-offset: 3px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td {
  text-align: left; vertical-align: top; padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line);
  unicode-bidi: isolate;
}
td:last-child { overflow-wrap: anywhere; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: .82rem; white-space: nowrap; }
tbody th { font-weight: 500; }
.few table { max-width: 38rem; }
.prose td:not(:last-child), .batches th { white-space: nowrap; }
.figure { text-align: right; white-space: nowrap; }
.pairs tbody th { width: 38%; color: var(--soft); font-weight: 400; }
.pairs .figure { text-align: left; }
.few.pairs tbody th { width: 60%; }
figure + .wide { margin-top: 1rem; }
.note { color: var(--soft); font-size: .86rem; margin-top: .6rem; overflow-wrap: anywhere; max-width: 46rem; }
figure + figure, .note + figure { margin-top: 1.75rem; }
figcaption { margin-bottom: .35rem; }
figcaption span { color: var(--soft); font-size: .88rem; }
svg { display: block; overflow: visible; }
svg text {
  fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums;
  stroke: var(--paper); stroke-width: 3px; paint-order: stroke; stroke-linejoin: round;
}
svg text.inside { fill: var(--ink); stroke: none; }
svg text.plan { fill: var(--plan); stroke: var(--paper); stroke-width: 3px; stroke-dasharray: none; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
line.plan { stroke: var(--plan); stroke-width: 1.5; stroke-dasharray: 5 4; }
.again { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
rect { stroke: var(--paper); stroke-width: .6; }
rect.verifying { stroke: none; }
rect.nodes { fill: var(--nodes); } rect.edges { fill: var(--edges); } rect.turns { fill: var(--turns); }
rect.other { fill: var(--other); } rect.verifying { fill: var(--verifying); }
path.failed { stroke: var(--bad); stroke-width: 2; fill: none; }
.legend { list-style: none; padding: 0; margin-top: .5rem; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
.legend li { color: var(--soft); font-size: .84rem; display: flex; align-items: center; gap: .4rem; }
.legend i { width: .75rem; height: .75rem; border-radius: 2px; font-style: normal; line-height: .75rem; }
i.nodes { background: var(--nodes); } i.edges { background: var(--edges); } i.turns { background: var(--turns); }
i.other { background: var(--other); } i.verifying { background: var(--verifying); }
i.failed { color: var(--bad); font-weight: 700; font-size: 1.05rem; }
footer { color: var(--soft); font-size: .84rem; padding-top: 2rem; padding-bottom: 3rem; }
@media (max-width: 34rem) {
  main, footer { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.25rem; }
  .cards { grid-template-columns: 1fr 1fr; }
  th, td { padding-right: .6rem; }
  .batches table { font-size: .74rem; }
  .batches thead th { font-size: .7rem; }
  .batches th, .batches td { padding-right: .35rem; }
  .batches tr > :nth-child(2) { display: none; }
  .prose thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .prose tbody tr { display: flex; flex-wrap: wrap; gap: 0 .75rem; padding: .45rem 0; }
  .prose tbody tr { border-bottom: 1px solid var(--line); }
  .prose tbody th, .prose tbody td { border: 0; padding: 0; text-align: left; }
  .prose tbody td:last-child { flex-basis: 100%; color: var(--soft); }
}
@media print {
  @page { margin: 14mm; }
  :root {
    --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --wash: #fff; --card: #fff;
    --nodes: #2b6a99; --edges: #c0761a; --turns: #4c8a57; --other: #7b6a9b; --verifying: #d9d3ea; --plan: #9a3412;
    --good: #1f6b3a; --good-wash: #fff; --noted: #7a4b00; --noted-wash: #fff; --bad: #a1231b; --bad-wash: #fff;
  }
  body { font-size: 10pt; }
  main, footer { max-width: none; padding: 0 .5mm; }
  header { padding-top: 0; }
  .badge { border: 1pt solid; }
  .cards { grid-template-columns: repeat(6, 1fr); gap: 2mm; }
  .cards div { padding: 2mm 2.5mm; }
  .cards b { font-size: 12pt; white-space: nowrap; }
  .cards dt, .cards span { font-size: 7.5pt; }
  footer { padding: 8mm 0 0; }
  .wide { overflow: visible; }
  section { margin-top: 6mm; padding-top: 6mm; }
  figure, tr, .cards div { break-inside: avoid; }
  h2, h3, figcaption, thead { break-after: avoid; }
  svg, i { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
